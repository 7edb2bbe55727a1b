// A client as people write them: Node's own http with a kept-alive agent, nothing of a mesh.
// Usage: node client.js URL COUNT

const http = require("http");

const [url, count] = [process.argv[2], Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

function get() {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent }, (response) => {
      let text = "";
      response.on("data", (part) => (text += part));
      response.on("end", () => resolve({ status: response.statusCode, text }));
    });
    request.on("error", reject);
  });
}

async function main() {
  const names = {};
  for (let i = 0; i < count; i++) {
    const { status, text } = await get();
    if (status !== 200) throw new Error(`${status}: ${text}`);
    const { name } = JSON.parse(text);
    names[name] = (names[name] || 0) + 1;
  }
  console.log(JSON.stringify({ names }));
  agent.destroy();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
