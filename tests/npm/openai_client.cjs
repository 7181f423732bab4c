// Calls an OpenMaaS server with OpenAI's JavaScript package and prints the results as JSON.
//   node openai_client.cjs chat|media BASE_URL KEY MODEL [SOUND]
const fs = require('node:fs');
const OpenAI = require('openai');
const [what, baseURL, apiKey, model, sound] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const messages = [
  { role: 'user', content: 'What is the capital of France? Answer with one word.' },
];
const shape = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 12 } },
  required: ['city'],
  additionalProperties: false,
};
const tools = [{ type: 'function', function: { name: 'get_weather', parameters: shape } }];
const weather = {
  tools,
  messages: [{ role: 'user', content: 'What is the weather in Paris?' }],
  tool_choice: { type: 'function', function: { name: 'get_weather' } },
  max_tokens: 80,
};
const ask = (more) =>
  client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 8, ...more });

/** The class and code of the error that `promise` ends with. */
async function failure(promise) {
  try {
    await promise;
    return 'none';
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.type];
  }
}

async function chat() {
  const results = {};
  results.whole = await ask({ logprobs: true, top_logprobs: 2 });
  results.chunks = [];
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await ask(options)) results.chunks.push(chunk);
  results.tools = await ask(weather);
  // The package's own helper puts fragments together, and minds their order.
  const stream = client.chat.completions.stream({ model, temperature: 0, ...weather });
  results.streamedTools = await stream.finalChatCompletion();
  const format = { type: 'json_schema', json_schema: { name: 'city', schema: shape, strict: true } };
  results.json = await ask({ response_format: format, max_tokens: 60 });
  results.parsed = (
    await client.chat.completions.parse({
      model, messages, temperature: 0, max_tokens: 60, response_format: format,
    })
  ).choices[0].message.content;
  results.completion = await client.completions.create({ model, prompt: '1, 2, 3,', max_tokens: 2 });
  results.models = [];
  for await (const one of client.models.list()) results.models.push(one.id);
  const stranger = new OpenAI({ baseURL, apiKey: 'maas_no_such', maxRetries: 0 });
  results.errors = {
    unknownKey: await failure(stranger.models.list()),
    badValue: await failure(ask({ temperature: 9 })),
    noModel: await failure(ask({ model: 'nobody' })),
    tooLong: await failure(ask({ messages: [{ role: 'user', content: 'word '.repeat(20000) }] })),
  };
  return results;
}

async function media() {
  const results = {};
  const input = ['The cat sits.', 'Whales are large.'];
  const floats = { model, input, encoding_format: 'float' };
  results.floats = (await client.embeddings.create(floats)).data.map((one) => one.embedding);
  // Without a format the package asks for base64 and decodes it.
  results.usual = (await client.embeddings.create({ model, input })).data.map((one) => [
    ...one.embedding,
  ]);
  const file = () => fs.createReadStream(sound);
  const transcribe = (more) =>
    client.audio.transcriptions.create({ model: 'whisper', file: file(), ...more });
  results.transcription = await transcribe({});
  results.vtt = await transcribe({ response_format: 'vtt' });
  results.verbose = await transcribe({ response_format: 'verbose_json' });
  results.error = await failure(transcribe({ response_format: 'diarized_json' }));
  return results;
}

({ chat, media })[what]().then(
  (results) => console.log(JSON.stringify(results)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
