import type { Random } from '../random.ts'
import { hostileJson } from './json.ts'
import { mutate } from './mqtt-packets.ts'

const paths = [
  '/',
  '/%',
  '/%zz',
  '/%00',
  '/..%2f..%2fetc/passwd',
  '/docs/../../package.json',
  '/v1/devices/%E0%A4%A/telemetry',
  '/v1/devices/__proto__/telemetry',
  `/v1/devices/${'x'.repeat(600)}/telemetry`,
  '/v1/devices/fuzz/telemetry?from=-1e99&to=%00&interval=0.000001ms',
  '/v1/devices/fuzz/telemetry?interval=1ms&fill=null&limit=100000&from=0&to=9007199254740991',
  '/v1/devices/fuzz/telemetry?interval=1d&timezone=Europe/Berlin&fill=linear&limit=100000&from=-8640000000000000&to=8640000000000000',
  '/v1/devices/fuzz/telemetry?cursor=tzzzzzzzzzzz&order=desc&interval=1h',
  '/v1/devices/fuzz/telemetry?metrics=************a&format=csv',
  '/v1/devices?devices=*a*a*a*a*a*a*a*a*a*b&limit=-1',
  '/v1/latest?metrics=%ff&devices=,,,,',
  '/v1/feed?after=earliest&limit=10000&wait=0',
  '/v1/feed?after=1.1.1&device=%2A&metric=[a-z]+',
  '/v1/feed?after=__proto__&limit=1e3',
  '/v1/quarantine?limit=99999999&before=x',
  '/v1/consumers/%2e%2e',
  '/metrics',
  '/mqtt',
  '/openapi.json',
  '*',
  'http://[::1/x',
  '//',
  '/\u00e9\u0001',
]

const headers = [
  'Host: 127.0.0.1',
  'Host: evil.example',
  'Content-Length: -1',
  'Content-Length: 99999999999',
  'Content-Length: 3\r\nContent-Length: 4',
  'Transfer-Encoding: chunked\r\nContent-Length: 5',
  'Transfer-Encoding: gzip, chunked',
  'Expect: 100-continue',
  'Expect: the-unexpected',
  'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings',
  'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short',
  'Accept: text/event-stream, application/x-ndjson;q=huge',
  'Accept: \u00ff/\u00ff',
  'Last-Event-ID: \u00ff',
  'If-None-Match: "',
  'Prefer: wait=99999999999999999999',
  'Content-Type: application/json; charset=utf-99',
  'Content-Encoding: gzip',
  'Origin: null',
  `X-Long: ${'x'.repeat(9000)}`,
  'X-A: b\r\n continued',
  ': nameless',
]

/** What a hostile client sends over one HTTP connection: requests on the edge of the standard, and beyond it. */
export function hostileRequests(random: Random): Buffer {
  const requests = Array.from({ length: random.integer(1, 5) }, () => request(random))
  return Buffer.concat(requests.map((bytes) => (random.next() < 0.25 ? mutate(bytes, random) : bytes)))
}

function request(random: Random): Buffer {
  const method = random.pick([
    'GET',
    'GET',
    'GET',
    'POST',
    'PUT',
    'PATCH',
    'DELETE',
    'HEAD',
    'OPTIONS',
    'CONNECT',
    'BREW',
  ])
  const path = random.pick(
    method === 'GET' ? paths : [...paths, '/v1/telemetry', '/v1/devices/fuzz/telemetry', '/v1/consumers/c'],
  )
  const chosen = Array.from({ length: random.integer(0, 3) }, () => random.pick(headers))
  if (random.next() < 0.8) chosen.unshift('Host: 127.0.0.1')
  const head = [`${method} ${path} HTTP/${random.pick(['1.1', '1.1', '1.1', '1.0', '0.9', '2.0'])}`, ...chosen]
  if (method === 'GET') return Buffer.from(`${head.join('\r\n')}\r\n\r\n`, 'latin1')
  const body = Buffer.from(hostileJson(random))
  if (random.next() < 0.3) {
    const sizes = random.pick(['ffffffffffffffff', '-1', 'zz', '5;ext="', body.length.toString(16)])
    const start = Buffer.from(`${head.join('\r\n')}\r\nTransfer-Encoding: chunked\r\n\r\n${sizes}\r\n`, 'latin1')
    return Buffer.concat([start, body, Buffer.from('\r\n0\r\n\r\n')])
  }
  const length = random.next() < 0.8 ? body.length : random.integer(0, 10_000)
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\nContent-Length: ${length}\r\n\r\n`, 'latin1'), body])
}

/** The request that turns a connection into a WebSocket. */
export function upgradeRequest(path: string): Buffer {
  const lines = [
    `GET ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Protocol: mqtt',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`)
}

/** A frame of RFC 6455 §5.2, mostly as it must be. */
export function frame(payload: Buffer, random: Random): Buffer {
  const hostile = random.next() < 0.3
  const opcode = hostile ? random.integer(0, 15) : 2
  const first = (hostile ? random.pick([0x80, 0x00, 0xf0, 0xc0]) : 0x80) | opcode
  const masked = !hostile || random.next() < 0.7
  const mask = Buffer.from([1, 2, 3, 4])
  const header = Buffer.alloc(payload.length < 126 ? 2 : payload.length < 65_536 ? 4 : 10)
  header[0] = first
  header[1] = (masked ? 0x80 : 0) | (header.length === 2 ? payload.length : header.length === 4 ? 126 : 127)
  if (header.length === 4) header.writeUInt16BE(payload.length, 2)
  if (header.length === 10) header.writeBigUInt64BE(hostile ? 2n ** 62n : BigInt(payload.length), 2)
  const body = masked ? Buffer.from(payload.map((byte, i) => byte ^ (mask[i % 4] as number))) : payload
  return Buffer.concat([header, ...(masked ? [mask] : []), body])
}
