// Calls onhand's second edge with the clients that Connect's authors wrote, in every way that they can send a call:
//   node calls.mjs http://127.0.0.1:PORT schema.binpb
// Prints what came back as JSON, by way of sending; the test that runs it knows what to expect.
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";

const [baseUrl, schema] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(schema)));
const inventory = registry.getService("onhand.v1.InventoryService");
const errorInfo = registry.getMessage("google.rpc.ErrorInfo");
const preconditionFailure = registry.getMessage("google.rpc.PreconditionFailure");

// Sees the request as it leaves, so that a way of sending is what its name says.
let sent;
const look = (next) => (request) => {
  sent = request.header.get("content-type");
  return next(request);
};

const ways = {};
for (const useBinaryFormat of [true, false]) {
  for (const useHttpGet of [true, false]) {
    const options = { baseUrl, useBinaryFormat, useHttpGet, defaultTimeoutMs: 20_000, interceptors: [look] };
    const name = `${useBinaryFormat ? "proto" : "json"} ${useHttpGet ? "get" : "post"}`;
    ways[`node http/1.1 ${name}`] = node.createConnectTransport({ ...options, httpVersion: "1.1" });
    ways[`node http/2 ${name}`] = node.createConnectTransport({ ...options, httpVersion: "2" });
    ways[`node gzip ${name}`] = node.createConnectTransport({
      ...options,
      httpVersion: "2",
      sendCompression: node.compressionGzip,
      compressMinBytes: 1,
    });
    ways[`web ${name}`] = web.createConnectTransport(options);
  }
}

const basket = (sku, quantity) => [{ locationId: "store-north", lines: [{ sku, quantity: BigInt(quantity) }] }];

async function refusal(call) {
  try {
    await call;
    return "answered";
  } catch (error) {
    const refused = ConnectError.from(error);
    return {
      code: Code[refused.code],
      message: refused.rawMessage,
      reasons: refused.findDetails(errorInfo).map((info) => [info.domain, info.reason, info.metadata]),
      shorts: refused.findDetails(preconditionFailure).flatMap((failure) => failure.violations.map((v) => v.subject)),
    };
  }
}

const results = {};
let n = 0;
for (const [name, transport] of Object.entries(ways)) {
  const client = createClient(inventory, transport);
  const requestId = `node-${process.pid}-${n++}`;
  const availability = await client.getAvailability({ channel: 1, skus: ["bread"], locationIds: ["store-north"] });
  const reserve = { requestId, channel: 1, ttlSeconds: 60n, baskets: basket("milk", 1) };
  const reserved = await client.reserve(reserve);
  const repeated = await client.reserve(reserve);
  const released = await client.releaseReservation({
    requestId: `${requestId}-release`,
    reservationId: reserved.reservation.reservationId,
  });
  results[name] = {
    sent,
    availability: toJson(inventory.method.getAvailability.output, availability),
    state: reserved.reservation.state,
    isRepeatTheSame: repeated.reservation.reservationId === reserved.reservation.reservationId,
    stateReleased: released.reservation.state,
    short: await refusal(client.reserve({ ...reserve, requestId: `${requestId}-short`, baskets: basket("milk", 99) })),
    unknown: await refusal(client.getLocation({ locationId: "nowhere" })),
    invalid: await refusal(client.reserve({})),
  };
}
console.log(JSON.stringify(results));
process.exit(0); // connections of HTTP/2 would keep it
