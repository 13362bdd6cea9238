import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "own", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
const model = provider(name), shared = { model, temperature: 0, maxOutputTokens: 60 };
function check(what, holds) { if (!holds) throw new Error(what); }

const whole = (await generateText({ ...shared, prompt: "Say hello." })).text;
let parts = "";
for await (const part of streamText({ ...shared, prompt: "Say hello." }).textStream) parts += part;
check("stream", whole && parts === whole);
const weather = tool({ description: "The weather of a city", inputSchema: z.object({ city: z.string() }) });
const called = await generateText({ ...shared, prompt: "What is the weather in Oslo?", tools: { weather }, toolChoice: "required" });
check("tools", called.toolCalls[0].toolName === "weather" && typeof called.toolCalls[0].input.city === "string");
const person = z.object({ name: z.string(), age: z.number().int() });
const { object } = await generateObject({ ...shared, schema: person, prompt: "Ann is 31 years old." });
check("schema", typeof object.age === "number");
console.log("done: chat, stream, tools, schema");
