// A client on the TypeScript SDK, old (v1) or new (v2): does what it reads on standard input, one JSON object a line.
// Words: where the SDK is installed, v1 or v2, and the server as JSON: a URL, or a command.
const { createRequire } = require("node:module");
const { createInterface } = require("node:readline");

async function open(modules, version, target) {
  const from = createRequire(modules + "/");
  const v1 = (name) => from("@modelcontextprotocol/sdk/client/" + name);
  const sdk =
    version === "v1"
      ? { ...v1("index.js"), ...v1("stdio.js"), ...v1("streamableHttp.js") }
      : { ...from("@modelcontextprotocol/client"), ...from("@modelcontextprotocol/client/stdio") };
  const client = new sdk.Client(
    { name: "typescript-" + version, version: "1.0" },
    { versionNegotiation: { mode: "auto" } },
  );
  const transport = target.url
    ? new sdk.StreamableHTTPClientTransport(new URL(target.url))
    : new sdk.StdioClientTransport(target);
  await client.connect(transport);
  return client;
}

async function main([modules, version, server]) {
  const client = await open(modules, version, JSON.parse(server));
  const stopping = new AbortController();
  const does = {
    list: async () => (await client.listTools()).tools.map((tool) => tool.name),
    call: async ({ tool, given }) => {
      const sent = { name: tool, arguments: given };
      const options = { signal: stopping.signal };
      const result = version === "v1" ? await client.callTool(sent, undefined, options) : await client.callTool(sent, options);
      return JSON.stringify(result.structuredContent ?? result.content);
    },
    read: async ({ uri }) => (await client.readResource({ uri })).contents[0].text,
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    if (asked.what === "stop") {
      stopping.abort();
      continue;
    }
    does[asked.what](asked).then(
      (got) => console.log(JSON.stringify({ got })),
      (error) => console.log(JSON.stringify({ failed: String(error) })),
    );
  }
  await client.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.log(JSON.stringify({ failed: String(error) }));
  process.exitCode = 1;
});
