import { isUtf8 } from 'node:buffer'

/*
 * What MQTT 3.1.1 forbids and the parser of Aedes lets pass, looked at where the bytes of a packet are whole. The answer
 * to all of it is to close the connection. [MQTT-4.8.0-1]
 */

type Rule = (bytes: Buffer, body: number, end: number, flags: number) => string | null

const rules: Record<number, Rule> = {
  1: connectProblem,
  3: publishProblem,
  4: acknowledgementProblem,
  5: acknowledgementProblem,
  6: acknowledgementProblem,
  7: acknowledgementProblem,
  8: subscribeProblem,
  10: unsubscribeProblem,
  12: emptyProblem,
  14: emptyProblem,
}

/** What is wrong with the packet that lies in `bytes` from `at` to `end`, with its fixed header. */
export function packetProblem(bytes: Buffer, at: number, end: number): string | null {
  const first = bytes[at] as number
  let body = at + 1
  while ((bytes[body++] as number) > 127);
  return rules[first >> 4]?.(bytes, body, end, first & 15) ?? null
}

// Bits of the flags of CONNECT: MQTT 3.1.1 §3.1.2.3
const willFlag = 0x04
const passwordFlag = 0x40
const userNameFlag = 0x80

function connectProblem(bytes: Buffer, body: number, end: number): string | null {
  const flagsAt = afterText(bytes, body, end) + 1
  if (flagsAt + 3 > end) return 'a CONNECT that ends too soon'
  const flags = bytes[flagsAt] as number
  // Bridges set the highest bit. Another version is answered that it is not spoken here. [MQTT-3.1.2-2]
  const version = (bytes[flagsAt - 1] as number) & 0x7f
  if (version !== 3 && version !== 4) return null
  // [MQTT-3.1.2-22]
  if ((flags & passwordFlag) !== 0 && (flags & userNameFlag) === 0) return 'a password without a user name'
  const texts = 1 + (flags & willFlag ? 2 : 0) + (flags & userNameFlag ? 1 : 0) + (flags & passwordFlag ? 1 : 0)
  let at = flagsAt + 3
  for (let i = 0; i < texts; i++) at = afterText(bytes, at, end)
  return at === end ? null : 'a CONNECT whose fields do not fill it'
}

function publishProblem(bytes: Buffer, body: number, end: number, flags: number): string | null {
  const qos = (flags >> 1) & 3
  // [MQTT-3.3.1-2]
  if (qos === 0) return (flags & 8) !== 0 ? 'DUP is set at QoS 0' : null
  const idAt = afterText(bytes, body, end)
  return idAt + 2 > end ? 'a PUBLISH that ends before its packet identifier' : identifierProblem(bytes, idAt)
}

function acknowledgementProblem(bytes: Buffer, body: number, end: number): string | null {
  return end - body === 2 ? identifierProblem(bytes, body) : 'an acknowledgement is a packet identifier'
}

function subscribeProblem(bytes: Buffer, body: number, end: number): string | null {
  // [MQTT-3.8.3-3]
  if (end - body < 5) return 'a SUBSCRIBE without a topic filter'
  return identifierProblem(bytes, body)
}

function unsubscribeProblem(bytes: Buffer, body: number, end: number): string | null {
  // [MQTT-3.10.3-2]
  if (end - body < 4) return 'an UNSUBSCRIBE without a topic filter'
  for (let at = body + 2; at < end; ) {
    const next = afterText(bytes, at, end)
    if (next > end) return 'an UNSUBSCRIBE that ends within a topic filter'
    const filter = bytes.subarray(at + 2, next)
    // [MQTT-1.5.3-1], [MQTT-1.5.3-2]
    if (!isUtf8(filter) || filter.includes(0)) return 'a topic filter must be UTF-8 without the character U+0000'
    at = next
  }
  return identifierProblem(bytes, body)
}

function emptyProblem(_bytes: Buffer, body: number, end: number): string | null {
  return body === end ? null : 'a packet that has no content holds some'
}

/** [MQTT-2.3.1-1] */
function identifierProblem(bytes: Buffer, at: number): string | null {
  return bytes.readUInt16BE(at) === 0 ? 'the packet identifier must not be 0' : null
}

/** Where a text ends that begins with its length; beyond `end` when it is not whole. MQTT 3.1.1 §1.5.3 */
function afterText(bytes: Buffer, at: number, end: number): number {
  return at + 2 > end ? end + 1 : at + 2 + bytes.readUInt16BE(at)
}
