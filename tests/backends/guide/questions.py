"""What people ask the guide, by the section that answers it; a new question is a new line."""

# As people type it: short, misspelt, and with other words than the pages have.
ANSWERED_BY = {
    "docs/commands.md#usage": [
        "can I put the costs into Excel?",
        "what is an unpriced turn?",
    ],
    "docs/supabase.md#views-of-other-names": [
        "how do I query my costs with SQL?",
    ],
    "docs/configuration.md#a-model": [
        "how do I set the price of my own model?",
    ],
    "docs/how-to/serve.md#serve-a-team-with-tokens": [
        "how do I give my teammate access to my agents?",
    ],
    "docs/index.md#who-makes-it-and-the-licence": [
        "who made this",
        "who wrote this program and is it actively maintained?",
        "what license is it under",
        "license?",
        "can I use it commercially",
    ],
    "docs/getting-started.md#what-has-changed": [
        "what changed lately",
        "show me the changelog",
        "release notes",
        "what's new?",
    ],
    "docs/how-to/sign-in.md#sign-out": [
        "how do i log out",
        "sign out of the http server",
        "logout",
        "how do I log off?",
    ],
    "docs/how-to/organization.md#work-in-another-organisation": [
        "switch organization",
        "I am in two organisations, which one pays?",
        "how do I change to another org",
    ],
    "docs/what-it-does-not-do.md#themes": [
        "dark mode",
        "can I change the colors of the terminal",
        "how do I set a theme",
    ],
    "docs/turns.md#watching-an-answer-from-elsewhere": [
        "can I watch a running answer from another client?",
        "I closed the terminal while it was answering, how do I see the rest?",
        "follow an answer in another window",
        "see the answer on another device",
    ],
    "docs/agents.md#what-the-status-says": [
        "what does degraded mean",
    ],
    "docs/agents.md#which-agent-answers": [
        "why does guide answer and not my agent",
        "what is the default agent",
    ],
    "docs/backends/anthropic.md#recipe": [
        "anthropic api key",
        "use claude directly without openrouter",
    ],
    "docs/backends/ccrouter.md#recipe": [
        "does claude-code-router work",
        "set up ccrouter",
    ],
    "docs/backends/guide.md": [
        "which model are you",
    ],
    "docs/backends/write-a-backend.md": [
        "how do I add my own agent written in python",
        "add custom agent",
        "write my own plugin",
        "connect my own agent in code",
    ],
    "docs/backends/write-a-backend.md#in-this-repository": [
        "how do I contribute a backend to this repository",
    ],
    "docs/commands.md#agents-add-agents-remove": [
        "remove an agent i added",
        "delete an agent",
    ],
    "docs/commands.md#models": [
        "how do I update the list of models",
        "show me how to refresh the model list",
        "how do I know the price before I ask?",
    ],
    "docs/commands.md#chat": [
        "run it in CI",
        "how do I use it in a shell script",
        "json output in scripts",
    ],
    "docs/commands.md#exit-statuses": [
        "exit code",
    ],
    "docs/commands.md#migrate": [
        "how do I run the migrations",
    ],
    "docs/commands.md#status-and-stop": [
        "how do I stop the server",
        "why are there two servers running",
        "how do I stop the background server",
    ],
    "docs/commands.md#tokens": [
        "how do I make a token?",
    ],
    "docs/configuration.md#an-agent": [
        "how do I turn off an agent",
        "how do i add my own agent",
        "how do I deactivate an agent",
        "how do i add a new agent",
    ],
    "docs/configuration.md#environment": [
        "set environment variable",
        "list of env vars",
        "change data directory",
    ],
    "docs/configuration.md#the-network": [
        "corporate proxy",
        "self-signed certificate of my company",
    ],
    "docs/configuration.md#when-the-file-changes": [
        "do i need to restart after editing the toml",
        "reload config",
    ],
    "docs/configuration.md#where-the-file-is": [
        "where is the config file",
        "where is agentapi.toml",
    ],
    "docs/cost.md#spend-less": [
        "how can I save money",
        "cheapest model",
        "save tokens",
    ],
    "docs/cost.md#what-is-free": [
        "does it cost extra",
        "is there a free trial",
        "which models are free",
        "is there something free?",
        "is it free",
        "what does it cost to use this program",
    ],
    "docs/cost.md#when-the-cost-is-unknown": [
        "why is the cost null",
        "cost says unknown",
    ],
    "docs/cost.md#where-the-cost-comes-from": [
        "why is the cost shown as estimated",
        "how are costs computed?",
    ],
    "docs/cost.md#which-price-counts": [
        "what is genai-prices",
        "which price list do you use",
    ],
    "docs/design/architecture.md#where-new-code-goes": [
        "how do I add a tool?",
        "how do I add a migration",
    ],
    "docs/design/architecture.md#which-tests-to-run": [
        "which tests should I run after a change",
    ],
    "docs/getting-started.md#a-model-that-really-answers": [
        "use chatgpt",
    ],
    "docs/getting-started.md#install-it-without-a-clone": [
        "how do I install on fedora",
        "apt install",
        "conda",
        "is there a homebrew formula",
        "how do I install this",
        "pip install",
    ],
    "docs/getting-started.md#the-first-answer-from-a-clone": [
        "how do i start this thing",
    ],
    "docs/getting-started.md#which-systems-it-runs-on": [
        "raspberry pi",
        "arm64",
        "alpine linux",
        "wsl",
        "mac?",
        "python 3.10?",
    ],
    "docs/how-to/add-a-local-model.md#lm-studio-vllm-and-other-servers": [
        "does LM Studio work with this?",
        "connect vllm",
    ],
    "docs/how-to/add-a-local-model.md#ollama": [
        "self hosted llama",
        "how do i use ollama",
        "I want to run a model on my own computer",
        "ollama",
        "run a llm localy",
        "without internet",
    ],
    "docs/how-to/add-openrouter.md#choose-a-model-of-openrouter": [
        "can I use another model from openrouter that isn't listed",
    ],
    "docs/how-to/add-openrouter.md#set-the-key": [
        "How can I set up OpenRouter?",
        "I have an OpenRouter account, what now?",
        "where do i put my openrouter key",
        "set up opnerouter",
    ],
    "docs/how-to/audit.md#read-the-audit-log": [
        "who did what",
        "audit trail",
    ],
    "docs/how-to/budgets.md#set-a-budget": [
        "can I set a spending limit",
        "how do I raise a budget?",
        "set a budget",
        "stop when I spent 10 dollars",
    ],
    "docs/how-to/budgets.md#see-what-is-left": [
        "how much is left of my budget?",
        "how much of my budget have I used?",
        "when does my budget renew",
        "what happens when the budget runs out?",
    ],
    "docs/how-to/budgets.md#before-you-ask": [
        "what would this question cost before I send it?",
        "what will this message cost before I send it",
        "estimate the cost",
    ],
    "docs/how-to/backup-and-uninstall.md#back-up": [
        "backup schedule",
        "how do I backup the database?",
        "backup",
        "make a bakcup of my sessions",
    ],
    "docs/how-to/backup-and-uninstall.md#back-up-the-master-key-too": [
        "forgot my master key",
    ],
    "docs/how-to/backup-and-uninstall.md#begin-anew": [
        "delete everything",
        "wipe all data and start over",
        "factory reset",
    ],
    "docs/how-to/backup-and-uninstall.md#move-to-another-machine-or-to-your-own-postgres": [
        "how do I move my sessions to a new laptop",
        "new laptop, take my chats with me",
        "migrate from embedded db to my postgres",
    ],
    "docs/how-to/backup-and-uninstall.md#restore": [
        "restore single conversation",
        "how do I restore from a backup",
        "restore a backup",
        "how do i get my old data back from the backup file",
    ],
    "docs/how-to/backup-and-uninstall.md#uninstall": [
        "how do I uninstall it",
        "how do I get rid of it",
        "uninstal",
        "remove it completely from my machine",
    ],
    "docs/how-to/chat-in-the-terminal.md#commands": [
        "regenerate the last answer",
        "copy the last answer",
    ],
    "docs/how-to/chat-in-the-terminal.md#with-a-screen-reader-or-on-a-plain-terminal": [
        "blind user screenreader",
        "no colors please",
    ],
    "docs/how-to/chat-in-the-terminal.md#write-a-message": [
        "multi line paste in chat",
        "arrow keys history",
    ],
    "docs/how-to/connect-a-client.md#by-one-command": [
        "connect everything at once",
        "hook up all my editors",
    ],
    "docs/how-to/connect-a-client.md#claude-code": [
        "claude code setup",
        "use claude code",
        "how do I use Claude Code with it",
    ],
    "docs/how-to/connect-a-client.md#claude-desktop": [
        "How do I add this to Claude Desktop?",
    ],
    "docs/how-to/connect-a-client.md#codex": [
        "What do I put in Codex's config.toml?",
    ],
    "docs/how-to/connect-a-client.md#cursor": [
        "cursor configuration",
        "does it work in cursor",
    ],
    "docs/how-to/connect-a-client.md#jetbrains-ides": [
        "pycharm?",
    ],
    "docs/how-to/connect-a-client.md#langchain-and-langgraph": [
        "langchain",
    ],
    "docs/how-to/connect-a-client.md#several-clients-at-once": [
        "can two IDEs use it at the same time?",
    ],
    "docs/how-to/connect-a-client.md#vs-code": [
        "How do I configure VS Code?",
        "vscode copilot",
        "vs code setup",
    ],
    "docs/how-to/connect-a-client.md#when-the-client-does-not-show-the-tools": [
        "uvx not found",
        "tools dont show up in claude desktop",
    ],
    "docs/how-to/connect-a-client.md#windsurf": [
        "windsurf",
    ],
    "docs/how-to/deploy.md#behind-a-reverse-proxy": [
        "cloudflare tunnel",
        "ngrok",
        "nginx config",
        "put it behind caddy",
    ],
    "docs/how-to/deploy.md#tls-without-a-proxy": [
        "https?",
        "ssl certificate",
    ],
    "docs/how-to/deploy.md#with-containers": [
        "kubernetes helm chart",
        "heroku",
        "docker compose",
        "docker",
        "run in kubernetes or docker",
        "is there a container image",
    ],
    "docs/how-to/deploy.md#with-systemd": [
        "systemd unit",
        "how do I run it at startup of my machine?",
    ],
    "docs/how-to/organization.md": [
        "multi tenant",
        "are there organisations",
    ],
    "docs/how-to/organization.md#let-people-in": [
        "how do I make myself an admin",
        "invite a teammate",
        "add a colleague",
        "kick somebody out of the org",
    ],
    "docs/how-to/organization.md#what-administrators-see": [
        "can my boss read my chats",
        "does the admin see my messages",
    ],
    "docs/how-to/organization.md#what-can-be-set": [
        "how do I restrict models for my team?",
        "forbid gpt-4 for my team",
        "default model for everyone",
        "how do I limit who may use expensive models?",
        "how do I restrict which models people can use",
    ],
    "docs/how-to/own-keys.md#add-a-key": [
        "can each user bring their own key",
        "byok",
    ],
    "docs/how-to/own-keys.md#change-the-master-key": [
        "rotate master key",
    ],
    "docs/how-to/redis.md#what-it-is-for": [
        "do I need redis",
        "redis needed?",
    ],
    "docs/how-to/scale.md#the-steps": [
        "how many users can it handle",
        "high availability",
    ],
    "docs/how-to/serve.md#ask-it-with-curl": [
        "curl example",
    ],
    "docs/how-to/serve.md#fair-shares": [
        "why do i get 429 from the server",
    ],
    "docs/how-to/serve.md#let-others-in": [
        "make it reachable for my collegues on the lan",
        "protect it with a password",
    ],
    "docs/how-to/serve.md#change-the-port": [
        "change the port",
        "which port does it listen on",
        "how do I change the port?",
        "address already in use",
    ],
    "docs/getting-started.md#upgrade": [
        "how do I downgrade",
        "how do I upgrade",
        "update to a new version",
        "do I lose my sessions when I upgrade",
    ],
    "docs/cost.md#what-did-i-spend": [
        "can an admin see how much each member spent",
        "where do I see what the whole team has spent",
    ],
    "docs/how-to/serve.md#start-it": [
        "health check endpoint",
        "how do I see if the server is up",
        "is http supported",
        "run as a network server",
    ],
    "docs/how-to/sign-in.md#personal-tokens": [
        "api token for a script over http",
    ],
    "docs/how-to/sign-in.md#set-it-up": [
        "how can people sign in",
        "log in with google",
        "sso",
        "oauth setup",
        "login with our company account",
    ],
    "docs/how-to/use-from-python.md#the-first-answer": [
        "call it from python",
        "python sdk",
        "how do I use it from my Python code?",
        "python libary",
    ],
    "docs/how-to/use-your-own-postgres.md#behind-a-connection-pooler": [
        "pgbouncer",
    ],
    "docs/how-to/use-your-own-postgres.md#point-it-to-a-database": [
        "can I use my own Postgres database?",
        "use my own postgres",
        "use rds",
    ],
    "docs/index.md#the-words-used-here": [
        "what is a turn?",
        "what's the difference between agent and model",
    ],
    "docs/index.md#what-it-needs-and-what-not": [
        "does it need docker",
        "do I need an account",
        "can i run it without docker",
    ],
    "docs/performance.md": [
        "memory usage too high",
        "how much ram does it use",
        "benchmark numbers",
    ],
    "docs/performance.md#beside-other-servers": [
        "compare with litellm",
    ],
    "docs/providers/gemini.md#add-gemini": [
        "can I use Gemini?",
        "add gemini",
    ],
    "docs/providers/vertex.md#add-vertex-ai": [
        "how to use vertex ai",
        "vertex",
    ],
    "docs/security.md#secrets": [
        "how do I change my api key",
        "where is my openai key kept, and is it encrypted?",
        "where does my api key go",
        "are my api keys safe?",
        "does it keep my API key in plain text?",
    ],
    "docs/security.md#what-an-agent-can-do-on-your-machine": [
        "can it read my files",
        "can the agent call tools",
    ],
    "docs/security.md#what-is-kept-and-where": [
        "what data leaves my machine",
        "does openai see my messages",
        "does it keep my data private",
        "where is my data stored?",
        "where is the database stored?",
        "where's my data",
        "where do you save everything",
        "which folder are the files in",
        "how long are sessions kept",
    ],
    "docs/security.md#who-can-reach-the-server": [
        "does it open a port on my network?",
    ],
    "docs/security.md#who-sees-whose-sessions": [
        "can my colleagues read my conversations",
        "is my conversation private",
    ],
    "docs/sessions.md#continue-a-conversation": [
        "how do I continue yesterday's conversation",
        "resume a chat",
        "pick up where I left off",
    ],
    "docs/sessions.md#delete-a-conversation": [
        "does deleting a chat give me the money back?",
        "how do I delete an old conversation",
        "undo delete session",
        "delete my history",
        "delete one chat",
    ],
    "docs/sessions.md#export-a-conversation": [
        "export a conversation to a file",
        "download my chat as json",
        "export a chat as markdown",
    ],
    "docs/sessions.md#export-everything-of-yours": [
        "gdpr export",
        "download all my data",
    ],
    "docs/sessions.md#list-and-search-sessions": [
        "does search look inside messages",
        "where can I see my old chats?",
        "find old chat",
        "search my history",
        "show me the history",
    ],
    "docs/sessions.md#rate-tag-and-archive": [
        "how do I give an answer a bad rating",
        "put a label on a session",
        "archive old chats",
    ],
    "docs/sessions.md#read-a-transcript": [
        "how do I read the transcript of a session?",
    ],
    "docs/sessions.md#record-a-conversation-elsewhere": [
        "record what I did in claude.ai",
    ],
    "docs/sessions.md#rename-a-session": [
        "how do I rename a chat",
        "change chat title",
    ],
    "docs/supabase.md#direct-connection-or-pooler": [
        "does it work with the supabase transaction pooler",
    ],
    "docs/supabase.md#make-a-login": [
        "which grants does it need on supabase",
    ],
    "docs/supabase.md#start-the-server-on-supabase": [
        "supabase",
        "use it with supabase",
    ],
    "docs/supabase.md#what-the-migration-changes-in-your-database": [
        "will it change my existing tables",
    ],
    "docs/tools.md#tools": [
        "list of mcp tools",
        "which tools does it offer",
    ],
    "docs/troubleshooting.md#answers-are-slow": [
        "how do I make it faster",
        "why so slow",
        "why is it slow",
        "takes forever to answer",
        "speed it up",
    ],
    "docs/troubleshooting.md#an-answer-is-cut-or-still-running": [
        "the answer stops in the middle",
    ],
    "docs/troubleshooting.md#auth-the-provider-refused-the-key": [
        "I get a 401",
        "key is wrong",
        "my key doesn't work",
        "invalid api key error",
    ],
    "docs/troubleshooting.md#cancelled-the-turn-was-cancelled": [
        "my turn was cancelled but I didn't cancel it",
        "why was my message cancelled",
    ],
    "docs/troubleshooting.md#context_length-the-conversation-is-too-long": [
        "context length exceeded",
    ],
    "docs/troubleshooting.md#first-look": [
        "it doesnt work",
        "something is broken, help",
        "how to debug",
        "where are the logs",
    ],
    "docs/troubleshooting.md#not_found-the-provider-does-not-know-the-model": [
        "model not found",
    ],
    "docs/troubleshooting.md#payment-the-account-has-no-credit": [
        "the provider says I have no credits",
        "error 402",
    ],
    "docs/troubleshooting.md#postgres-does-not-start": [
        "postgres won't start",
        "database wont start",
    ],
    "docs/troubleshooting.md#rate_limit-too-many-requests": [
        "rate limit exceeded",
    ],
    "docs/troubleshooting.md#the-program-is-too-old-for-the-database": [
        "can I upgrade from an old version",
    ],
    "docs/turns.md#a-session-that-is-busy": [
        "can I send two messages in parallel",
        "why does it say that a turn is already running",
        "two people same session",
        "can 2 clients write in the same session at once",
    ],
    "docs/turns.md#after-a-crash-or-restart": [
        "what happens to my answer if the server crashes",
        "server crashed while answering",
    ],
    "docs/turns.md#cancelling-a-turn": [
        "kill a stuck turn",
        "how do I cancel a turn",
        "stop a running answer",
        "stop it!! it is answering nonsense",
        "abort",
    ],
    "docs/turns.md#changing-agent-or-model-within-a-conversation": [
        "how do I use a different model for one question",
        "can I switch models in the middle of a conversation?",
        "switch model mid conversation",
        "can I use Claude and GPT in one conversation?",
        "how can I compare answers of two models?",
    ],
    "docs/turns.md#parameters-of-one-turn": [
        "how do I set the temperature",
        "temperature",
        "system prompt",
        "how do I make the answers shorter?",
    ],
    "docs/turns.md#sending-the-same-message-twice": [
        "what happens if two replicas get the same message at once",
        "will I be charged twice if I retry?",
        "idempotency_key",
        "do i pay twice if i send it again",
        "what is an idempotency key",
    ],
    "docs/turns.md#streaming-and-progress": [
        "does it support streaming",
        "streaming?",
    ],
    "docs/turns.md#tasks": [
        "does it support MCP tasks",
    ],
    "docs/turns.md#the-status-of-a-turn": [
        "What does the status interrupted mean?",
    ],
    "docs/turns.md#waiting-for-a-long-answer": [
        "the answer takes five minutes, how do I wait for it?",
        "what is wait_seconds",
    ],
    "docs/turns.md#when-your-client-times-out": [
        "my client timed out, did I lose the answer?",
        "what happens if I close my laptop while it is answering",
        "request timed out did I loose my answer",
        "timeout after 60s in cursor",
    ],
    "docs/what-it-does-not-do.md": [
        "what is not supported yet",
    ],
    "docs/what-it-does-not-do.md#a-web-dashboard": [
        "is there a mobile app",
        "is there a dashboard",
        "is there a web ui",
        "does it have a gui?",
        "can I open it in my browser",
    ],
    "docs/what-it-does-not-do.md#a2a": [
        "a2a?",
        "does it speak agent2agent",
    ],
    "docs/what-it-does-not-do.md#an-openai-compatible-or-rest-api": [
        "api like openai",
        "is there an openai compatible endpoint?",
        "rest api?",
        "can I point the openai sdk at it",
        "v1/chat/completions",
    ],
    "docs/what-it-does-not-do.md#images-audio-and-files": [
        "send a whole directory",
        "can I send a picture",
        "attach a pdf",
        "voice input?",
    ],
    "docs/what-it-does-not-do.md#telemetry": [
        "telemetry",
        "does it phone home",
        "how do I turn off telemetry?",
        "do you collect analytics",
    ],
    "docs/what-it-does-not-do.md#webhooks": [
        "send email when done",
        "can it call webhooks?",
        "callback url when a turn is done",
    ],
    "docs/what-it-does-not-do.md#windows": [
        "does this work on windows?",
        "windows?",
        "does it run on windows 11",
        "can i use it in powershell",
    ],
    "docs/what-it-does-not-do.md#tools-for-the-agents-models": [
        "can the model browse the web",
        "can one agent call another agent",
        "function calling",
        "can it search the internet",
        "can it edit files in my project",
        "how do I give the agent tools",
        "agents talking to each other",
    ],
    "docs/what-it-does-not-do.md#search-in-your-documents": [
        "does it do RAG over my documents",
        "embeddings",
        "vector search",
    ],
    "docs/what-it-does-not-do.md#shared-conversations": [
        "how do I share a conversation with a colleague",
    ],
    "docs/what-it-does-not-do.md#edited-messages-and-branches": [
        "edit a previous message",
        "can I branch a conversation",
    ],
    "docs/what-it-does-not-do.md#conversations-deleted-by-age": [
        "delete sessions older than 30 days",
        "clean up old chats automatically",
    ],
    "docs/what-it-does-not-do.md#another-agent-in-place-of-one-that-fails": [
        "what happens when the provider is down",
        "does it retry automatically when it fails",
        "failover",
    ],
    "docs/what-it-does-not-do.md#encrypted-conversations": [
        "is my data encrypted at rest",
    ],
    "docs/how-to/backup-and-uninstall.md#how-big-it-is": [
        "postgres eats disk space",
        "how big does the database get",
        "old sessions take too much space",
    ],
    "docs/how-to/chat-in-the-terminal.md#leave-the-chat": [
        "exit",
        "how to quit the chat",
        "how do i quit the chat",
        "exit chat",
        "ctrl-c doesn't exit",
    ],
    "docs/troubleshooting.md#the-answer-is-in-the-wrong-language": [
        "my answer is in the wrong language",
        "answer in german",
        "how do I change the language of the answers",
    ],
    "docs/troubleshooting.md#the-server-refuses-the-client": [
        "I get 401 unauthorized when my client connects",
        "why do I get 401 over http",
        "connection refused when my client connects",
    ],
    "docs/how-to/serve.md#change-the-token": [
        "how do I rotate the token",
        "I lost my token",
    ],
    "docs/how-to/serve.md#several-replicas": [
        "how do I run two instances",
    ],
    "docs/providers/index.md#a-provider-without-a-page": [
        "grok",
        "does it support bedrock",
        "huggingface",
    ],
    "docs/how-to/add-a-local-model.md": [
        "does it work offline",
    ],
    "docs/backends/openai.md#options": [
        "reasoning effort",
        "structured output",
    ],
    "docs/what-it-does-not-do.md#imported-conversations": [
        "how do I import my chatgpt history",
        "can I import conversations",
    ],
    "docs/what-it-does-not-do.md#subscriptions-to-chat-apps": [
        "how do I use my claude subscription",
        "can I use my chatgpt plus account",
    ],
    "docs/what-it-does-not-do.md#messages-at-a-later-time": [
        "can I schedule a message",
        "cron",
    ],
    "docs/what-it-does-not-do.md#other-databases": [
        "can I use mysql",
        "sqlite instead of postgres",
    ],
    "docs/getting-started.md#use-it-from-your-editor-or-desktop-app": [
        "what do I do after make run",
    ],
    "docs/turns.md#what-happens-to-a-message": [
        "how many tokens can I send",
        "how long can a message be",
    ],
    "docs/how-to/connect-a-client.md#another-mcp-client": [
        "open webui",
        "n8n",
    ],
    "docs/commands.md#turns": [
        "how do I see what is running right now",
    ],
    "docs/how-to/serve.md": [
        "difference between stdio and http",
    ],
    "docs/troubleshooting.md#report-a-fault": [
        "where do I report a bug",
        "security vulnerability report",
    ],
    "docs/troubleshooting.md#the-agent-is-not-set-up": [
        "key is set but not found",
        "env var not picked up in claude desktop",
    ],
    "docs/tools.md#which-tools-a-client-sees": [
        "how do I enable more tools",
        "toolsets",
    ],
}
# What each part of README.md is about, and the section that says it in full.
README = {
    "agentapi-mcp": ("what is agentapi-mcp?", "docs/index.md"),
    "Why": ("why would I use it?", "docs/index.md"),
    "The first answer": ("how do I start?", "docs/getting-started.md#the-first-answer-from-a-clone"),
    "Configuration of your client": ("how do I connect my client?", "docs/how-to/connect-a-client.md#by-one-command"),
    "How it fits together": ("how is it built?", "docs/design/architecture.md"),
    "For others": ("can I run it as a network server for my team?", "docs/how-to/serve.md#start-it"),
    "What this version is": ("which features are missing?", "docs/what-it-does-not-do.md"),
    "Where next": ("where do I find the documentation?", "docs/index.md#find-it-by-task"),
}
# What the documentation of this server has no answer to.
UNANSWERABLE = [
    "what is the capital of France?",
    "write me a poem about the sea",
    "who won the football match yesterday",
    "translate this sentence into German",
    "fix the bug in my javascript function",
    "how do I cook rice",
    "what's the weather today",
    "explain quantum mechanics",
    "write a python function that reverses a list",
    "book me a flight to Rome",
    "¿Cómo agrego una clave?",
    "Wie füge ich ein Modell hinzu?",
    "what is the weather in paris",
    "write me a poem",
    "how do I install kubernetes on ubuntu",
    "best pizza recipe",
    "who is the president of the usa",
    "how do I center a div",
    "what is the meaning of life",
    "how do i reset my iphone",
    "how tall is mount everest",
    "fix my java nullpointerexception",
    "recommend a good movie",
    "stock price of apple",
    "book a table for two",
    "translate hello to french",
    "what is 2+2",
    "how do I configure eslint",
    "how do I use terraform with aws",
    "tell me a joke",
    "when is the next train to berlin",
    "how to train a neural network",
    "what's a good name for my cat",
]
