// What an application asks of the coordinator, with generated types: node dist/main.js http://localhost:8080 CHANNEL STREAM-ID
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi.js";

const [baseUrl, channel, stream] = process.argv.slice(2);
if (!baseUrl || !channel || !stream) throw new Error("usage: node dist/main.js URL CHANNEL STREAM-ID");

// What COMMANDS_API_AUTH_TOKEN is at the coordinator, with COMMANDS_API_AUTH=Bearer.
const token = process.env["TOKEN"];
const client = createClient<paths>({ baseUrl, headers: token ? { Authorization: `Bearer ${token}` } : {} });

const capacity = taken(await client.GET("/commands/capacity"));
console.log("capacity", capacity.load, capacity.capacity, capacity.encoderCount);

const { streams } = taken(await client.GET("/commands/streams", { params: { query: { q: channel } } }));
for (const s of streams) {
  console.log("stream", s.channel, s.streamId, s.state);
  for (const a of s.announced) console.log("announced", a.streamType, a.resolution, a.indexFile);
}

const { entries } = taken(await client.GET("/commands/timeline", { params: { query: { channel } } }));
for (const e of entries) console.log("timeline", e.kind, e.code);

const { events } = taken(await client.GET("/commands/events", { params: { query: { channel } } }));
for (const e of events) console.log("event", e.id, e.type, e.lastAnswer);

taken(await client.POST("/commands/close", { params: { header: { "x-streaming-channel": channel, "x-streaming-id": stream } } }));
console.log("closed", channel);

// taken is the answer, if there is one.
function taken<T>({ data, error, response }: { data?: T; error?: components["schemas"]["Error"]; response: Response }): T {
  if (data === undefined) throw new Error(`answered with ${response.status}` + (error ? `: ${error.error} (${error.code})` : ""));
  return data;
}
