// Calls what it is told to, and says who answered. Reads commands as lines of JSON, answers each with a line.
'use strict';

const readline = require('readline');
const grpc = require('@grpc/grpc-js');
const xds = require('@grpc/grpc-js-xds');

xds.register();
const clients = new Map();

function call(cmd) {
  if (!clients.has(cmd.target)) {
    const creds = new xds.XdsChannelCredentials(grpc.credentials.createInsecure());
    clients.set(cmd.target, new grpc.Client(cmd.target, creds));
  }
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(cmd.metadata)) metadata.set(name, value);
  const deadline = Date.now() + cmd.timeout * 1000;
  return new Promise((resolve) => {
    clients.get(cmd.target).makeUnaryRequest('/meridian.test.Echo/Who', (b) => b, (b) => b, Buffer.alloc(0), metadata, {deadline},
      // A StringValue of less than 128 bytes: a tag, a length, the text.
      (err, out) => resolve(err ? `error ${grpc.status[err.code]}: ${err.details}` : out.subarray(2).toString()));
  });
}

(async () => {
  for await (const line of readline.createInterface({input: process.stdin})) {
    const cmd = JSON.parse(line);
    const counts = {};
    for (let i = 0; i < cmd.calls; i++) {
      const who = await call(cmd);
      counts[who] = (counts[who] || 0) + 1;
    }
    console.log(JSON.stringify(counts));
  }
  process.exit(0);
})();
