// Runs js-macaroon for test_interop_js.py. It reads the steps from stdin and writes the result to stdout, both as JSON.
// Bytes are encoded as hex.
'use strict';

const macaroon = require('macaroon');

const unhex = text => new Uint8Array(Buffer.from(text, 'hex'));
const hex = bytes => Buffer.from(bytes).toString('hex');

const steps = {
  mint: (_, {rootKey, identifier, location}) =>
    macaroon.newMacaroon({version: 2, rootKey: unhex(rootKey), identifier: unhex(identifier), location}),
  import: (_, {raw}) => macaroon.importMacaroon(unhex(raw)),
  attenuate: (token, {caveat}) => {
    token.addFirstPartyCaveat(unhex(caveat));
    return token;
  },
  delegate: (token, {rootKey, ticket, location}) => {
    token.addThirdPartyCaveat(unhex(rootKey), unhex(ticket), location);
    return token;
  },
};

// The binary writer of js-macaroon doubles its buffer at every field, because it compares with a _capacity that it never
// sets. So it runs out of memory at the fourth caveat. Its JSON has the same content and no such limit.
const binary = token => (token.caveats.length < 4 && !token.caveats.some(caveat => caveat.vid)
  ? hex(token.exportBinary()) : null);

let input = '';
process.stdin.on('data', chunk => { input += chunk; });
process.stdin.on('end', () => {
  const {todo, verifyWith} = JSON.parse(input);
  const token = todo.reduce((before, step) => steps[step.step](before, step), null);
  const seen = [];
  let error = null;
  if (verifyWith) {
    try {
      token.verify(unhex(verifyWith), condition => { seen.push(condition); return null; });
    } catch (caught) {
      error = caught.message;
    }
  }
  process.stdout.write(JSON.stringify({json: token.exportJSON(), binary: binary(token), seen, error}));
});
