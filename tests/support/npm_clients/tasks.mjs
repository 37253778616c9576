// A client of tasks on the TypeScript SDK and ext-tasks: calls chat, and tells each event as a line of JSON.
// Words: where they are installed, and as JSON the server's URL, the message, and what to do with a question or the task.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const TASKS = "io.modelcontextprotocol/tasks";
const [modules, told] = process.argv.slice(2);
const { url, message, answer, cancels } = JSON.parse(told);
const from = createRequire(modules + "/");
const { Client, StreamableHTTPClientTransport } = from("@modelcontextprotocol/client");
const entry = modules + "/@modelcontextprotocol/ext-tasks/dist/client/index.js";
const { createTaskSessionFromClient } = await import(pathToFileURL(entry));

const tell = (event) => console.log(JSON.stringify(event));
const clientInfo = { name: "ext-tasks", version: "0.2.2" };
const capabilities = { elicitation: { form: {} }, extensions: { [TASKS]: {} } };
const client = new Client(clientInfo, { capabilities, versionNegotiation: { mode: "auto" } });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));

let requests = 0;
// The package leaves it to its host to send what the SDK would refuse.
async function rawDispatch(request) {
  const { method, params } = request;
  const name = method === "tools/call" ? params.name : params.taskId;
  const headers = {
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": method,
    ...(name === undefined ? {} : { "mcp-name": name }),
  };
  const body = JSON.stringify({ jsonrpc: "2.0", id: ++requests, method, params });
  const response = await fetch(url, { method: "POST", headers, body });
  const text = await response.text();
  const streamed = response.headers.get("content-type").startsWith("text/event-stream");
  const { result, error } = JSON.parse(streamed ? text.split("data: ").at(-1) : text);
  return error === undefined ? { kind: "result", result } : { kind: "error", error };
}

const session = createTaskSessionFromClient(client, {
  endpointId: "agentapi-mcp",
  rawDispatch,
  v2RequestFraming: { protocolVersion: "2026-07-28", clientInfo, clientCapabilities: capabilities },
  ...(answer === undefined
    ? {}
    : {
        onInputRequest: async (request) => {
          tell({ asked: request.params.message });
          return answer;
        },
      }),
});
const execution = await session.callTool("chat", { message, agent: "droid", wait_seconds: 0 });
tell({ kind: execution.kind });
if (cancels) {
  await execution.cancel();
}
const { outcome } = await execution.settle();
tell({ status: outcome.status, result: outcome.result ?? null });
await session.close();
await client.close();
