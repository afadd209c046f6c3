import { connect } from 'node:net'
import { createParser } from 'eventsource-parser'
import { connectAsync } from 'mqtt'
import { describe, expect, onTestFinished, test } from 'vitest'
import WebSocket from 'ws'
import { type HubProcess, hubTest, readFigures, startHubProcess, waitFor } from './hub-process.ts'

interface FeedReading {
  device: string
  ts: number
  values: { n: number }
}

/** Reads on from a cursor for a while, in one of the modes, and tells where it has come to. */
type Mode = (
  hub: HubProcess,
  after: string,
  enough: (count: number) => boolean,
) => Promise<{ readings: FeedReading[]; cursor: string }>

const polling: Mode = async (hub, after, enough) => {
  const readings: FeedReading[] = []
  let cursor = after
  while (!enough(readings.length)) {
    const page = await hub.get<{ readings: FeedReading[]; cursor: string }>(`/v1/feed?after=${cursor}&limit=7`)
    readings.push(...page.readings)
    cursor = page.cursor
  }
  return { readings, cursor }
}

const longPolling: Mode = async (hub, after, enough) => {
  const readings: FeedReading[] = []
  let cursor = after
  while (!enough(readings.length)) {
    const page = await hub.get<{ readings: FeedReading[]; cursor: string }>(`/v1/feed?after=${cursor}`, {
      headers: { prefer: 'wait=5' },
    })
    readings.push(...page.readings)
    cursor = page.cursor
  }
  return { readings, cursor }
}

const events: Mode = async (hub, after, enough) => {
  const readings: FeedReading[] = []
  let cursor = after
  await stream(hub, { accept: 'text/event-stream', 'last-event-id': after }, (feed) => {
    const parser = createParser({
      onEvent(event) {
        if (enough(readings.length)) return
        cursor = event.id as string
        if (event.event === 'readings') readings.push(...JSON.parse(event.data).readings)
      },
    })
    return feed((chunk) => {
      parser.feed(chunk)
      return enough(readings.length)
    })
  })
  return { readings, cursor }
}

const lines: Mode = async (hub, after, enough) => {
  const readings: FeedReading[] = []
  let cursor = after
  let rest = ''
  await stream(
    hub,
    { accept: 'application/x-ndjson' },
    (feed) =>
      feed((chunk) => {
        const parts = (rest + chunk).split('\n')
        rest = parts.pop() as string
        for (const part of parts) {
          // Each line has its own cursor, so a reader may stop at any of them.
          if (enough(readings.length)) break
          const { cursor: own, ...reading } = JSON.parse(part)
          cursor = own
          if (reading.device) readings.push(reading)
        }
        return enough(readings.length)
      }),
    `?after=${after}`,
  )
  return { readings, cursor }
}

async function stream(
  hub: HubProcess,
  headers: Record<string, string>,
  read: (feed: (onChunk: (text: string) => boolean) => Promise<void>) => Promise<void>,
  query = '',
): Promise<void> {
  const aborter = new AbortController()
  const response = await fetch(`${hub.http}/v1/feed${query}`, { headers, signal: aborter.signal })
  expect(response.status).toBe(200)
  const decoder = new TextDecoder()
  await read(async (onChunk) => {
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      if (onChunk(decoder.decode(chunk, { stream: true }))) break
    }
  })
  aborter.abort()
}

const webSocket: Mode = (hub, after, enough) =>
  new Promise((resolve, reject) => {
    const readings: FeedReading[] = []
    let cursor = after
    const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?after=${after}`)
    socket.on('error', reject)
    socket.on('message', (data) => {
      const frame = JSON.parse(data.toString())
      if (enough(readings.length)) return
      cursor = frame.cursor
      if (frame.type === 'readings') readings.push(...frame.readings)
      if (enough(readings.length)) {
        socket.close()
        resolve({ readings, cursor })
      }
    })
  })

const modes = {
  polling,
  'long polling': longPolling,
  'server-sent events': events,
  NDJSON: lines,
  WebSocket: webSocket,
}

/** A device that pushes n = 1, 2, 3, … until it is stopped; across restarts of the hub. */
async function startDevice(hub: HubProcess, device = 'walker') {
  const client = await connectAsync(hub.mqtt, { clientId: device, reconnectPeriod: 20 })
  client.on('error', () => {})
  let n = 0
  let running = true
  const loop = async () => {
    while (running) {
      n++
      await client.publishAsync(`devices/${device}/telemetry`, JSON.stringify({ ts: 1_700_000_000_000 + n, n }), {
        qos: 1,
      })
    }
  }
  const done = loop()
  onTestFinished(async () => {
    running = false
    await client.endAsync(true)
  })
  return {
    async stop(): Promise<number> {
      running = false
      await done
      return n
    },
  }
}

describe('the feed', () => {
  test('a reader walks through all five modes in turn, twice, the hub killed in between: nothing lost, nothing twice', async () => {
    let hub = await startHubProcess()
    const device = await startDevice(hub)
    const numbers: number[] = []
    let cursor = 'earliest'
    for (let round = 0; round < 2; round++) {
      for (const mode of Object.values(modes)) {
        const part = await mode(hub, cursor === 'earliest' ? await firstCursor(hub) : cursor, (count) => count >= 25)
        numbers.push(...part.readings.map(({ values }) => values.n))
        cursor = part.cursor
      }
      await hub.kill(round === 0 ? 'SIGKILL' : 'SIGTERM')
      hub = await startHubProcess({ folder: hub.folder, mqttPort: hub.mqttPort, httpPort: hub.httpPort })
    }
    const last = await device.stop()
    const rest = await polling(hub, cursor, (count) => numbers.length + count >= last)
    numbers.push(...rest.readings.map(({ values }) => values.n))
    expect(numbers).toEqual(Array.from({ length: last }, (_, i) => i + 1))
  })

  for (const [name, mode] of Object.entries(modes)) {
    hubTest(`${name} hands over from replay to live without a seam`, async ({ hub }) => {
      const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
      const device = await startDevice(hub, name)
      const pushed = async () => (await hub.get<{ readings: unknown[] }>(`/v1/feed?after=${cursor}&limit=300`)).readings
      await waitFor(async () => (await pushed()).length >= 300)
      const { readings } = await mode(hub, cursor, (count) => count >= 600)
      await device.stop()
      expect(readings.map(({ values }) => values.n)).toEqual(Array.from({ length: readings.length }, (_, i) => i + 1))
    })
  }

  test('readers far behind and readers live see the same, whatever the filter', async () => {
    const hub = await startHubProcess()
    const items = Array.from({ length: 3000 }, (_, n) => ({
      device: `d${n % 10}`,
      ts: 1_700_000_000_000 + n,
      a: n,
      ...(n % 3 === 0 ? { b: n } : {}),
    }))
    await post(hub, '/v1/telemetry', items)
    const read = async (query: string) => {
      const found: { device: string; values: Record<string, number> }[] = []
      for (let cursor = 'earliest'; ; ) {
        const page = await hub.get<{ readings: typeof found; cursor: string; caughtUp: boolean }>(
          `/v1/feed?after=${cursor}&limit=400&${query}`,
        )
        found.push(...page.readings)
        if (page.caughtUp) return found
        cursor = page.cursor
      }
    }
    for (let round = 0; round < 2; round++) {
      expect(await read('device=d3')).toHaveLength(300)
      expect(await read('device=d3,d4')).toHaveLength(600)
      expect(await read('device=*3')).toHaveLength(300)
      expect((await read('metric=b')).every(({ values }) => Object.keys(values).join() === 'b')).toBe(true)
      expect(await read('metric=b&device=d3,d0')).toHaveLength(200)
      expect(await read('device=nobody')).toEqual([])
      await hub.kill('SIGKILL')
      // The second round reads from the file what the first read from memory.
      Object.assign(hub, await startHubProcess({ folder: hub.folder }))
    }
  })

  hubTest('without "after", polling starts at the earliest reading and streams at the latest', async ({ hub }) => {
    await post(hub, '/v1/devices/a/telemetry', { n: 1 })
    const earliest = await hub.get('/v1/feed?after=earliest&limit=1')
    expect(await hub.get('/v1/feed?limit=1')).toEqual(earliest)
    const live = new Promise<{ readings: FeedReading[] }>((resolve, reject) => {
      const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed`)
      onTestFinished(() => socket.terminate())
      socket.on('error', reject)
      socket.on('message', (data) => {
        const frame = JSON.parse(data.toString())
        if (frame.type === 'hello') void post(hub, '/v1/devices/a/telemetry', { n: 2 })
        if (frame.type === 'readings') resolve(frame)
      })
    })
    expect((await live).readings.map(({ values }) => values.n)).toEqual([2])
  })

  hubTest('long polling answers empty after its wait, says that it waited, and is caught up', async ({ hub }) => {
    const response = await fetch(`${hub.http}/v1/feed?after=latest`, { headers: { prefer: 'respond-async, wait=1' } })
    expect(response.headers.get('preference-applied')).toBe('wait=1')
    expect(await response.json()).toMatchObject({ readings: [], caughtUp: true })
  })

  hubTest('cursors that do not work are told apart: malformed 400, foreign or future 409', async ({ hub }) => {
    const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
    const status = async (after: string) => (await fetch(`${hub.http}/v1/feed?after=${after}`)).status
    expect(await status('nonsense')).toBe(400)
    expect(await status('0123456789-1')).toBe(409)
    expect(await status(`${cursor}0`)).toBe(409)
    expect(await status(cursor)).toBe(200)
    const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?after=nonsense`)
    const [frame, code] = await new Promise<[string, number]>((resolve) => {
      let text = ''
      socket.on('message', (data) => {
        text = data.toString()
      })
      socket.on('close', (closeCode) => resolve([text, closeCode]))
    })
    expect(JSON.parse(frame)).toMatchObject({ type: 'error', problem: 'urn:telemetry-hub:problem:invalid-cursor' })
    expect(code).toBe(1008)
  })

  test('a cursor older than what is kept is 410 in every mode, and says which one still works', async () => {
    let hub = await startHubProcess()
    const first = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
    const items = (from: number) =>
      Array.from({ length: 5000 }, (_, i) => ({ device: 'a', ts: 1_700_000_000_000 + from + i, n: from + i }))
    await post(hub, '/v1/telemetry', items(0))
    await post(hub, '/v1/telemetry', items(5000))
    await waitFor(async () => ((await readFigures(hub)).hub_unsealed_readings as number) < 5000)
    await hub.kill('SIGTERM')
    hub = await startHubProcess({ folder: hub.folder, args: ['--log-retention', '1ms'] })
    const gone = await waitFor(async () => {
      const response = await fetch(`${hub.http}/v1/feed?after=${first.cursor}`)
      return response.status === 410 && ((await response.json()) as { oldest: string })
    })
    for (const accept of ['text/event-stream', 'application/x-ndjson']) {
      expect((await fetch(`${hub.http}/v1/feed?after=${first.cursor}`, { headers: { accept } })).status).toBe(410)
    }
    expect((await fetch(`${hub.http}/v1/feed?after=${gone.oldest}`)).status).toBe(200)
    expect((await fetch(`${hub.http}/v1/feed?after=earliest`)).status).toBe(200)
    // History is not the log: it is all there.
    expect((await hub.get<{ readings: unknown[] }>('/v1/devices/a/telemetry?limit=100000')).readings).toHaveLength(
      10_000,
    )
  })

  test('readers that stop reading, in every mode, cost bounded memory and delay nobody', async () => {
    const hub = await startHubProcess()
    const memory = async () => (await readFigures(hub)).process_resident_memory_bytes as number
    const stalled = ['text/event-stream', 'application/x-ndjson', 'websocket'].flatMap((kind) =>
      Array.from({ length: 5 }, () => openStalled(hub.httpPort, kind)),
    )
    onTestFinished(() => {
      for (const socket of stalled) socket.destroy()
    })
    await waitFor(async () => (await readFigures(hub)).hub_feed_followers === 15)
    const text = 'x'.repeat(4000)
    const push = async (from: number) => {
      const items = Array.from({ length: 900 }, (_, i) => ({
        device: 'big',
        ts: 1_700_000_000_000 + from + i,
        text: `${text}${from + i}`.slice(-4000),
      }))
      await post(hub, '/v1/telemetry', items)
    }
    // By then the process has grown to what this load takes, whoever reads.
    for (let i = 0; i < 10; i++) await push(i * 900)
    const before = await memory()
    // Kept for 15 readers, these 43 MB would be 650; garbage that is not collected yet is far less.
    for (let i = 10; i < 22; i++) await push(i * 900)
    expect((await memory()) - before).toBeLessThan(300e6)
    const { readings } = await webSocket(hub, await firstCursor(hub), (count) => count >= 19_800)
    expect(readings).toHaveLength(19_800)
  })

  test('a stop tells streaming readers where they are', async () => {
    const hub = await startHubProcess()
    await post(hub, '/v1/devices/a/telemetry', { n: 1 })
    const end = new Promise<{ cursor: string; code: number }>((resolve, reject) => {
      let cursor = ''
      const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?after=earliest`)
      socket.on('error', reject)
      socket.on('message', (data) => {
        ;({ cursor } = JSON.parse(data.toString()))
        if (JSON.parse(data.toString()).type === 'readings') void hub.kill('SIGTERM')
      })
      socket.on('close', (code) => resolve({ cursor, code }))
    })
    const { cursor, code } = await end
    expect(code).toBe(1001)
    const again = await startHubProcess({ folder: hub.folder })
    expect(await again.get(`/v1/feed?after=${cursor}`)).toMatchObject({ readings: [], caughtUp: true })
  })
})

async function firstCursor(hub: HubProcess): Promise<string> {
  const page = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
  return `${page.cursor.split('-')[0]}-1`
}

async function post(hub: HubProcess, path: string, body: unknown): Promise<void> {
  const response = await fetch(hub.http + path, { method: 'POST', body: JSON.stringify(body) })
  expect(response.status, await response.text()).toBe(200)
}

/** A reader that asks and never reads. */
function openStalled(port: number, kind: string) {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.pause()
  const upgrade =
    kind === 'websocket'
      ? 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
      : `Accept: ${kind}\r\n`
  socket.write(`GET /v1/feed?after=earliest HTTP/1.1\r\nHost: 127.0.0.1\r\n${upgrade}\r\n`)
  return socket
}
