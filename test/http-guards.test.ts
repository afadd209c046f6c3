import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import WebSocket from 'ws'
import { createSlots, networkOf } from '../broker/slots.ts'
import { defaultConfig } from '../src/config.ts'
import { createGuards } from '../src/http/guards.ts'
import { type HubProcess, hubTestWith, readFigures, startHubProcess, waitFor } from './hub-process.ts'

const startWith = (...args: string[]) => startHubProcess({ args })
const impatientTest = hubTestWith('--headers-timeout', '500ms', '--request-timeout', '1s')
const smallTest = hubTestWith(
  ...['--max-header-size', '4KiB', '--max-headers', '20', '--max-body-size', '1KiB'],
  ...['--max-control-rate', '50', '--max-packet-size', '1KiB'],
)
const frugalTest = hubTestWith('--max-query-points', '8000', '--max-queued-queries', '4')
const t0 = 1_700_000_000_000

function openSocket(hub: HubProcess, localAddress = '127.0.0.1') {
  const socket = connect({ port: hub.httpPort, host: '127.0.0.1', localAddress })
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  const said = { text: '' }
  socket.on('data', (chunk) => {
    said.text += chunk
  })
  return { socket, said }
}

const closed = (socket: Socket) => (socket.closed ? Promise.resolve() : once(socket, 'close'))
const request = (path: string, headers = '') => `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${headers}\r\n`
/** How often a limit has been met, altogether or since then. */
async function reached(hub: HubProcess, limit: string, since: Record<string, number> = {}): Promise<number> {
  const name = `hub_limit_reached_total{limit="${limit}"}`
  return ((await readFigures(hub))[name] ?? 0) - (since[name] ?? 0)
}

async function problem(hub: HubProcess, path: string, init?: RequestInit) {
  const response = await fetch(hub.http + path, init)
  const { type } = (await response.json()) as { type: string }
  return { status: response.status, code: type.split(':').at(-1), retry: response.headers.get('retry-after') }
}

async function push(hub: HubProcess, readings: object[]): Promise<void> {
  const response = await fetch(`${hub.http}/v1/telemetry`, { method: 'POST', body: JSON.stringify(readings) })
  expect(response.status).toBe(200)
}

impatientTest('a request that comes drop by drop, or not at all, is ended', async ({ hub }) => {
  const before = await readFigures(hub)
  const silent = openSocket(hub)
  const dripping = openSocket(hub)
  dripping.socket.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n')
  const timer = setInterval(() => dripping.socket.write('X-A: b\r\n'), 50)
  onTestFinished(() => clearInterval(timer))
  const withBody = openSocket(hub)
  withBody.socket.write('POST /v1/telemetry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{')
  await Promise.all([silent, dripping, withBody].map(({ socket }) => closed(socket)))
  for (const { said } of [dripping, withBody]) {
    expect(said.text).toMatch(/^HTTP\/1\.1 408 /)
    expect(said.text).toMatch(/urn:telemetry-hub:problem:request-timeout/)
  }
  // Before Fastify has seen a request, it is the time for the headers that is up.
  expect(await reached(hub, 'headersTimeout', before)).toBe(2)
  expect(await reached(hub, 'requestTimeout', before)).toBe(1)
})

smallTest('headers and bodies that are too large or too many are refused as problems', async ({ hub }) => {
  const before = await readFigures(hub)
  const large = openSocket(hub)
  large.socket.write(request('/healthz', `X-Large: ${'x'.repeat(5000)}\r\n`))
  await closed(large.socket)
  expect(large.said.text).toMatch(/^HTTP\/1\.1 431 [\s\S]*headers-too-large/)
  const many = openSocket(hub)
  many.socket.write(request('/healthz', 'X-A: b\r\n'.repeat(30)))
  await waitFor(() => /^HTTP\/1\.1 431 [\s\S]*31 headers/.test(many.said.text))
  const body = { method: 'POST', body: 'x'.repeat(2000) }
  expect(await problem(hub, '/v1/telemetry', body)).toMatchObject({ status: 413, code: 'too-large' })
  expect(await reached(hub, 'maxHeaderSize', before)).toBe(1)
  expect(await reached(hub, 'maxHeaders', before)).toBe(1)
  expect(await reached(hub, 'maxBodySize', before)).toBe(1)
})

test('connections too many are closed, in all and from one address; MQTT over WebSocket counts as MQTT', async () => {
  const hub = await startWith('--max-http-connections', '5', '--max-http-connections-per-address', '3')
  const devices = Array.from({ length: 6 }, () => new WebSocket(`ws://127.0.0.1:${hub.httpPort}/mqtt`, 'mqtt'))
  // The last three are refused unless one of the first is let in as MQTT by then.
  for (const device of devices) device.on('error', () => {})
  onTestFinished(() => {
    for (const device of devices) device.terminate()
  })
  for (const device of devices.slice(0, 3)) await once(device, 'open')
  const open = ['127.0.0.2', '127.0.0.2', '127.0.0.2'].map((address) => openSocket(hub, address))
  await Promise.all(open.map(({ socket }) => once(socket, 'connect')))
  await closed(openSocket(hub, '127.0.0.2').socket)
  expect(await reached(hub, 'maxHttpConnectionsPerAddress')).toBeGreaterThan(0)
  const more = ['127.0.0.3', '127.0.0.3'].map((address) => openSocket(hub, address))
  await waitFor(() => Promise.any(more.map(({ socket }) => closed(socket))).then(() => true))
  for (const { socket } of [...open, ...more]) socket.destroy()
  await waitFor(async () => (await readFigures(hub).catch(() => null))?.hub_http_connections === 1)
  expect(await reached(hub, 'maxHttpConnections')).toBeGreaterThan(0)
})

test('an address that asks too often is told to wait, and others are not', async () => {
  const hub = await startWith('--max-request-rate', '5')
  const answers = await Promise.all(Array.from({ length: 30 }, () => fetch(`${hub.http}/healthz`)))
  const refused = answers.filter(({ status }) => status === 429)
  expect(refused.length).toBeGreaterThan(10)
  expect(refused[0]?.headers.get('retry-after')).toBe('1')
  const other = openSocket(hub, '127.0.0.2')
  other.socket.write(request('/healthz'))
  await waitFor(() => other.said.text.startsWith('HTTP/1.1 200'))
  await waitFor(async () => (await fetch(`${hub.http}/healthz`)).status === 200)
})

smallTest(
  'requests that are piled up on one connection are answered up to a few, and the rest refused',
  async ({ hub }) => {
    const before = await readFigures(hub)
    const { socket, said } = openSocket(hub)
    socket.write(request('/v1/feed?wait=1&after=latest').repeat(100))
    await waitFor(() => said.text.split('HTTP/1.1 ').length === 101)
    const statuses = [...said.text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)
    expect(statuses.filter((status) => status === '200')).toHaveLength(32)
    expect(statuses.filter((status) => status === '429')).toHaveLength(68)
    expect(await reached(hub, 'unansweredRequests', before)).toBe(68)
  },
)

test('readers that follow are so many in all and of one address, in every mode, and a place that gets free is taken', async () => {
  const hub = await startWith('--max-streams', '3', '--max-streams-per-address', '2')
  const stream = async () => {
    const aborter = new AbortController()
    onTestFinished(() => aborter.abort())
    const response = await fetch(`${hub.http}/v1/feed`, {
      headers: { accept: 'text/event-stream' },
      signal: aborter.signal,
    })
    return { status: response.status, aborter }
  }
  const first = await stream()
  expect([first.status, (await stream()).status, (await stream()).status]).toEqual([200, 200, 429])
  expect(await problem(hub, '/v1/feed?wait=1&after=latest')).toMatchObject({ status: 429, code: 'too-many-requests' })
  const socket = new WebSocket(`ws://127.0.0.1:${hub.httpPort}/v1/feed`)
  const [frame, code] = await Promise.all([once(socket, 'message'), once(socket, 'close').then(([code]) => code)])
  expect(JSON.parse(String(frame[0]))).toMatchObject({ problem: 'urn:telemetry-hub:problem:too-many-requests' })
  expect(code).toBe(1013)
  const others = ['127.0.0.2', '127.0.0.3'].map((address) => openSocket(hub, address))
  for (const { socket } of others) socket.write(request('/v1/feed', 'Accept: text/event-stream\r\n'))
  await waitFor(() => others.every(({ said }) => said.text !== ''))
  expect(others.map(({ said }) => said.text.slice(9, 12)).sort()).toEqual(['200', '503'])
  expect((await fetch(`${hub.http}/v1/feed`)).status).toBe(200)
  first.aborter.abort()
  await waitFor(async () => (await readFigures(hub)).hub_http_streams === 2)
})

smallTest('a WebSocket that talks without end, or pings and never reads, is hung up on', async ({ hub }) => {
  const before = await readFigures(hub)
  for (const send of [
    (socket: WebSocket) => socket.send('hello?'),
    (socket: WebSocket) => socket.ping(Buffer.alloc(100)),
    (socket: WebSocket) => socket.pong(),
  ]) {
    const socket = new WebSocket(`ws://127.0.0.1:${hub.httpPort}/v1/feed`)
    socket.on('error', () => {})
    const greeted = once(socket, 'message')
    await once(socket, 'open')
    for (let i = 0; i < 20; i++) send(socket)
    await greeted
    expect(socket.readyState).toBe(WebSocket.OPEN)
    for (let i = 0; i < 500; i++) send(socket)
    await once(socket, 'close')
  }
  expect(await reached(hub, 'maxControlRate', before)).toBeGreaterThan(0)
})

smallTest('a WebSocket is told that a frame is too large', async ({ hub }) => {
  const before = await readFigures(hub)
  for (const path of ['/v1/feed', '/mqtt']) {
    const socket = new WebSocket(`ws://127.0.0.1:${hub.httpPort}${path}`)
    await once(socket, 'open')
    socket.send('x'.repeat(2000))
    const [code] = await once(socket, 'close')
    expect([path, code]).toEqual([path, 1009])
  }
  expect(await reached(hub, 'maxPacketSize', before)).toBe(2)
})

test('readers look through the log on disk one at a time and take turns: who piles up waits for itself, and is refused in the end', async () => {
  const guards = createGuards({
    limits: { ...defaultConfig(), maxStreamsPerAddress: 2, maxQueuedQueries: 1 },
    connections: createSlots(1, 1),
    streams: createSlots(1, 1),
    networkOf,
  })
  const order: string[] = []
  let looking = 0
  const scan = (reader: string) =>
    guards.scan(reader, async () => {
      expect(++looking).toBe(1)
      await new Promise(setImmediate)
      looking--
      order.push(reader)
    })
  const flood = Array.from({ length: 4 }, () => scan('10.0.0.1'))
  expect(guards.figures.scans).toBe(3)
  await expect(scan('10.0.0.1')).rejects.toMatchObject({ code: 'too-busy' })
  await Promise.all([...flood, scan('10.0.0.2'), scan('')])
  expect(order).toEqual(['10.0.0.1', '10.0.0.1', '10.0.0.2', '', '10.0.0.1', '10.0.0.1'])
  expect(guards.figures.scans).toBe(0)
})

frugalTest(
  'a page of history takes so many values: it ends earlier and says where to go on, and a bucket too wide is refused',
  async ({ hub }) => {
    const before = await readFigures(hub)
    for (let from = 0; from < 24_000; from += 8000) {
      await push(
        hub,
        Array.from({ length: 8000 }, (_, i) => ({ device: 'long', ts: t0 + (from + i) * 1000, a: i, b: i })),
      )
    }
    const path = '/v1/devices/long/telemetry'
    const times: number[] = []
    for (let cursor = ''; ; ) {
      const page = await hub.get<{ readings: { ts: number }[]; next: string | null }>(`${path}?limit=100000${cursor}`)
      expect(page.readings.length).toBeLessThanOrEqual(4000)
      times.push(...page.readings.map(({ ts }) => ts))
      if (page.next === null) break
      cursor = `&cursor=${page.next}`
    }
    expect(times).toEqual(Array.from({ length: 24_000 }, (_, i) => t0 + i * 1000))
    expect((await (await fetch(`${hub.http}${path}?format=csv`)).text()).split('\n')).toHaveLength(24_002)
    for (const order of ['asc', 'desc']) {
      let count = 0
      for (let cursor = ''; ; ) {
        const page = await hub.get<{ buckets: { values: { a: { count: number } } }[]; next: string | null }>(
          `${path}?interval=7s&aggregate=count&metrics=a&limit=100000&order=${order}${cursor}`,
        )
        count += page.buckets.reduce((sum, { values }) => sum + values.a.count, 0)
        if (page.next === null) break
        cursor = `&cursor=${page.next}`
      }
      expect(count).toBe(24_000)
    }
    // Filled buckets are made all at once; what counts is in blocks.
    await waitFor(async () => ((await readFigures(hub)).hub_unsealed_readings as number) < 16_000)
    expect(await problem(hub, `${path}?interval=7s&metrics=a&limit=100000&fill=previous`)).toMatchObject({
      status: 400,
      code: 'too-costly',
    })
    expect(await reached(hub, 'maxQueryPoints', before)).toBe(1)
  },
)

frugalTest('questions beyond those that can wait are told to come again', async ({ hub }) => {
  const before = await readFigures(hub)
  await push(
    hub,
    Array.from({ length: 5000 }, (_, i) => ({ device: 'd', ts: t0 + i, a: i })),
  )
  const ask = () => fetch(`${hub.http}/v1/devices/d/telemetry?limit=5000`)
  const statuses = (await Promise.all(Array.from({ length: 40 }, ask))).map(({ status }) => status)
  expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(4)
  expect(statuses.filter((status) => status === 503).length).toBeGreaterThan(0)
  expect(await reached(hub, 'maxQueuedQueries', before)).toBeGreaterThan(0)
  expect((await ask()).status).toBe(200)
})

smallTest('a reader that asks for several streams at once and vanishes leaves none of them behind', async ({ hub }) => {
  const { socket, said } = openSocket(hub)
  const stream = request('/v1/feed', 'Accept: text/event-stream\r\n')
  socket.write(stream + stream + request('/v1/feed?wait=60&after=latest'))
  await waitFor(() => said.text.includes('heartbeat'))
  await waitFor(async () => (await readFigures(hub)).hub_feed_followers === 2)
  expect((await readFigures(hub)).hub_http_streams).toBe(3)
  socket.destroy()
  await waitFor(async () => (await readFigures(hub)).hub_feed_followers === 0)
  expect((await readFigures(hub)).hub_http_streams).toBe(0)
})

test('a request with a body that asks for an upgrade is refused; neither it nor a WebSocket that takes nothing holds up a stop', async () => {
  const hub = await startHubProcess()
  const withBody = openSocket(hub)
  const noUpgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n'
  withBody.socket.write(request('/v1/telemetry', noUpgrade).replace('GET', 'POST'))
  await closed(withBody.socket)
  expect(withBody.said.text).toMatch(/^HTTP\/1\.1 400 /)
  const text = 'x'.repeat(4000)
  const { socket } = openSocket(hub)
  socket.pause()
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
  socket.write(request('/v1/feed', `${upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n`))
  await waitFor(async () => (await readFigures(hub)).hub_feed_followers === 1)
  for (let from = 0; from < 5400; from += 900) {
    await push(
      hub,
      Array.from({ length: 900 }, (_, i) => ({ device: 'd', ts: t0 + from + i, text })),
    )
  }
  expect(await hub.kill('SIGTERM')).toBe(0)
})

smallTest('an upgrade behind a request that is not answered yet ends the connection', async ({ hub }) => {
  // An offer that Node need not hand over, as it does since 24.9, is passed over in its turn.
  for (const [protocol, wait] of Object.entries({ websocket: 60, h2c: 1 })) {
    const { socket } = openSocket(hub)
    const upgrade = `Connection: Upgrade, close\r\nUpgrade: ${protocol}\r\n`
    socket.write(request(`/v1/feed?wait=${wait}&after=latest`) + request('/v1/feed', upgrade))
    await closed(socket)
  }
  await waitFor(async () => (await readFigures(hub)).hub_http_streams === 0)
})

impatientTest(
  'an upgrade that leads nowhere, and one whose address cannot be read, leave no connection open',
  async ({ hub }) => {
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n'
    for (const path of ['/%zz', '/docs', `/v1/devices/${'x'.repeat(600)}/telemetry`]) {
      const { socket } = openSocket(hub)
      socket.write(request(path, upgrade))
      await closed(socket)
    }
  },
)

test('answers that nobody takes are not made without end', async () => {
  const hub = await startWith('--max-unsent-size', '4MiB', '--idle-timeout', '3s')
  const text = 'x'.repeat(1000)
  for (let from = 0; from < 6000; from += 3000) {
    await push(
      hub,
      Array.from({ length: 3000 }, (_, i) => ({ device: 'd', ts: t0 + from + i, text })),
    )
  }
  const { socket } = openSocket(hub)
  socket.pause()
  socket.write(request('/v1/devices/d/telemetry?limit=6000').repeat(10))
  await waitFor(async () => {
    const figures = await readFigures(hub)
    const isReached = 'hub_limit_reached_total{limit="maxUnsentSize"}' in figures
    return isReached && (figures.hub_http_unsent_bytes ?? 0) > 4 * 1024 * 1024
  })
  // Who takes nothing is hung up on in the end, and then there is room again.
  await waitFor(async () => (await readFigures(hub)).hub_http_unsent_bytes === 0)
  expect(await reached(hub, 'idleTimeout')).toBeGreaterThan(0)
  expect((await fetch(`${hub.http}/v1/devices/d/telemetry?limit=6000`)).status).toBe(200)
})
