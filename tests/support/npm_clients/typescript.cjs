// A client on the TypeScript SDK, old (v1) or new (v2), that does what users do; tells what it got as JSON.
// Words: where the SDK is installed, v1 or v2, the mode of v2, and the server as JSON: a URL, or a command.
const { createRequire } = require("node:module");

async function main([modules, version, mode, server]) {
  const from = createRequire(modules + "/");
  const target = JSON.parse(server);
  const v1 = (name) => from("@modelcontextprotocol/sdk/client/" + name);
  const sdk =
    version === "v1"
      ? { ...v1("index.js"), ...v1("stdio.js"), ...v1("streamableHttp.js") }
      : { ...from("@modelcontextprotocol/client"), ...from("@modelcontextprotocol/client/stdio") };
  const client = new sdk.Client({ name: "typescript-" + version, version: "1.0" }, { versionNegotiation: { mode } });
  const transport = target.url
    ? new sdk.StreamableHTTPClientTransport(new URL(target.url))
    : new sdk.StdioClientTransport(target);
  await client.connect(transport);
  const tools = await client.listTools();
  const resources = await client.listResources();
  const prompts = await client.listPrompts();
  const chat = await client.callTool({ name: "chat", arguments: { message: target.message, agent: "guide" } });
  const turn = chat.structuredContent;
  const told = await client.callTool({ name: "get_transcript", arguments: { session_id: turn.session_id } });
  const read = await client.readResource({ uri: turn.transcript_uri });
  const protocol = version === "v1" ? null : client.getNegotiatedProtocolVersion();
  await client.close();
  console.log(
    JSON.stringify({
      tools: tools.tools.map((tool) => tool.name),
      resources: resources.resources.map((resource) => resource.uri),
      prompts: prompts.prompts.map((prompt) => prompt.name),
      protocol,
      status: turn.status,
      transcripts: [told.content[0].text, read.contents[0].text],
    }),
  );
}

main(process.argv.slice(2));
