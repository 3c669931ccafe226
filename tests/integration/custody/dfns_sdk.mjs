// Does with DFNS' own SDK what our client does. Arguments: the SDK's node_modules, the address, the token, the credential,
// the key's file, and the questions as JSON.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, baseUrl, authToken, credId, keyFile, questions] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { DfnsApiClient } = require("@dfns/sdk");
const { AsymmetricKeySigner } = require("@dfns/sdk-keysigner");

const signer = new AsymmetricKeySigner({ credId, privateKey: readFileSync(keyFile, "utf8") });
const api = new DfnsApiClient({ baseUrl, authToken, signer });
for (const { area, method, request } of JSON.parse(questions)) {
  console.log(JSON.stringify(await api[area][method](request)));
}
