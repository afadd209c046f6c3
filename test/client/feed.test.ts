import { createServer, type Server } from 'node:http'
import { connectAsync } from 'mqtt'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { createClient, type FeedMode, type FeedOptions, ProblemError } from '../../src/client/client.ts'
import { type HubProcess, hubTest, readFigures, startHubProcess, waitFor } from '../hub-process.ts'
import { startFlakyProxy } from './flaky-proxy.ts'

const modes: FeedMode[] = ['sse', 'websocket', 'long-poll', 'poll', 'ndjson']
/** So that polling does not make the tests wait. */
const quick = { intervalMillis: 10 }

const upTo = (last: number) => Array.from({ length: last }, (_, i) => i + 1)
const items = (from: number, to: number, device = 'walker', text = '') =>
  Array.from({ length: to - from + 1 }, (_, i) => ({
    device,
    ts: 1_700_000_000_000 + from + i,
    values: { n: from + i, ...(text === '' ? {} : { text }) },
  }))

/** Reads n after n until it is enough, and tells where that was. */
async function read(url: string, options: FeedOptions, numbers: number[], enough: () => boolean): Promise<string> {
  for await (const batch of createClient({ url }).feed({ ...quick, ...options })) {
    numbers.push(...batch.readings.map(({ values }) => values.n as number))
    if (enough()) return batch.cursor
  }
  throw new Error('the feed has ended by itself')
}

/** A device that pushes n = 1, 2, 3, … until it is stopped; across restarts of the hub. */
async function startDevice(hub: HubProcess) {
  const client = await connectAsync(hub.mqtt, { clientId: 'walker', reconnectPeriod: 20 })
  client.on('error', () => {})
  let n = 0
  let running = true
  const done = (async () => {
    while (running) {
      n++
      const body = JSON.stringify({ ts: 1_700_000_000_000 + n, n })
      await client.publishAsync('devices/walker/telemetry', body, { qos: 1 })
    }
  })()
  onTestFinished(() => client.endAsync(true))
  return {
    async stop(): Promise<number> {
      running = false
      await done
      return n
    },
  }
}

/** A server in place of the hub, for what a hub does not do. */
async function startServer(listener: Parameters<typeof createServer>[1]): Promise<{ server: Server; url: string }> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return { server, url: `http://127.0.0.1:${(server.address() as { port: number }).port}` }
}

describe('a feed of the client', { timeout: 60_000 }, () => {
  test('walks through all modes with one cursor while the hub is killed and comes back: nothing lost, nothing twice', async () => {
    let hub = await startHubProcess()
    const device = await startDevice(hub)
    const numbers: number[] = []
    let after = 'earliest'
    for (const mode of modes) {
      const begin = numbers.length
      let killed: Promise<unknown> | null = null
      after = await read(hub.http, { mode, after, limit: 20 }, numbers, () => {
        // In the middle of the mode: the reader has to find the new process by itself.
        killed ??= hub.kill('SIGKILL').then(async () => {
          hub = await startHubProcess({ folder: hub.folder, mqttPort: hub.mqttPort, httpPort: hub.httpPort })
        })
        return numbers.length >= begin + 200
      })
      await killed
    }
    const last = await device.stop()
    await read(hub.http, { after }, numbers, () => numbers.length >= last)
    expect(numbers).toEqual(upTo(last))
  })

  for (const [index, mode] of modes.entries()) {
    hubTest(`${mode} through a middle that cuts at any byte: nothing lost, nothing twice`, async ({ hub }) => {
      const client = createClient({ url: hub.http })
      const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
      await client.push(items(1, 1000, mode))
      const proxy = await startFlakyProxy(hub.httpPort, 42 + index, 8_000)
      const numbers: number[] = []
      const pushed = client.push(items(1001, 1500, mode))
      const options = { mode, after: cursor, limit: 25 }
      await read(proxy.url, options, numbers, () => {
        if (proxy.cuts >= 8) proxy.heal()
        return numbers.length >= 1500
      })
      await pushed
      expect(proxy.cuts).toBeGreaterThan(3)
      expect(numbers).toEqual(upTo(1500))
    })

    hubTest(`${mode} refused for good throws what the hub says`, async ({ hub }) => {
      const refused = async (after: string) => {
        const error = await read(hub.http, { mode, after }, [], () => false).catch((reason: unknown) => reason)
        expect(error).toBeInstanceOf(ProblemError)
        return error as ProblemError
      }
      expect(await refused('nonsense')).toMatchObject({
        type: 'urn:telemetry-hub:problem:invalid-cursor',
        status: 400,
        title: 'The cursor is malformed',
        hint: expect.stringContaining('earliest'),
      })
      expect((await refused('0123456789-1')).status).toBe(409)
    })

    hubTest(
      `${mode} ends without an error when its signal is aborted, while it waits and between two batches`,
      async ({ hub }) => {
        const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
        await createClient({ url: hub.http }).push(items(1, 10, `${mode} with a signal`))
        const aborter = new AbortController()
        const batches: number[] = []
        const options = { mode, after: cursor, limit: 1, signal: aborter.signal, ...quick }
        for await (const { readings } of createClient({ url: hub.http }).feed(options)) {
          batches.push(readings.length)
          if (batches.length === 3) aborter.abort()
        }
        expect(batches).toHaveLength(3)

        await waitFor(async () => !(await followers(hub)))
        const waiting = new AbortController()
        const feed = createClient({ url: hub.http }).feed({ mode, signal: waiting.signal })
        const next = feed.next()
        await waitFor(async () => mode.includes('poll') || followers(hub))
        waiting.abort()
        expect(await next).toEqual({ done: true, value: undefined })
      },
    )
  }

  test('a cursor that is no longer kept throws 410 with the oldest that works', async () => {
    let hub = await startHubProcess()
    const client = createClient({ url: hub.http })
    const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
    await client.push(items(1, 5000))
    await client.push(items(5001, 10_000))
    await waitFor(async () => ((await readFigures(hub)).hub_unsealed_readings as number) < 5000)
    await hub.kill('SIGTERM')
    hub = await startHubProcess({ folder: hub.folder, args: ['--log-retention', '1ms'] })
    await waitFor(async () => (await fetch(`${hub.http}/v1/feed?after=${cursor}`)).status === 410)
    for (const mode of modes) {
      const reading = read(hub.http, { mode, after: cursor }, [], () => true)
      await expect(reading).rejects.toMatchObject({
        name: 'ProblemError',
        status: 410,
        extra: { oldest: expect.any(String) },
      })
    }
  })

  hubTest(
    '"latest" means the same moment in every mode, and heartbeats tell the cursor to who asks for them',
    async ({ hub }) => {
      const client = createClient({ url: hub.http })
      await client.push(items(1, 3, 'latest'))
      for (const [index, mode] of modes.entries()) {
        const numbers: number[] = []
        let pushed: Promise<unknown> | null = null
        for await (const batch of client.feed({ mode, heartbeats: true, ...quick, silenceMillis: 3000 })) {
          if (batch.readings.length > 0) numbers.push(...batch.readings.map(({ values }) => values.n as number))
          else pushed ??= client.push(items(4 + index, 4 + index, 'latest'))
          if (numbers.length > 0) break
        }
        await pushed
        expect(numbers, mode).toEqual([4 + index])
      }
    },
  )

  hubTest('filters reach the hub, as lists or patterns', async ({ hub }) => {
    const client = createClient({ url: hub.http })
    const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
    const values = { a: 1, b: 2 }
    await client.push(['x1', 'x2', 'y1'].map((device) => ({ device, ts: 1_700_000_000_000, values })))
    const first = async (options: FeedOptions) => {
      for await (const batch of client.feed({ after: cursor, ...options })) return batch
    }
    expect((await first({ device: ['x1', 'y1'] }))?.readings.map(({ device }) => device)).toEqual(['x1', 'y1'])
    expect((await first({ device: 'x*', metric: 'b' }))?.readings.map((reading) => reading.values)).toEqual([
      { b: 2 },
      { b: 2 },
    ])
  })

  hubTest(
    'a WebSocket whose reader is slower than the hub is closed and resumed, with bounded memory',
    async ({ hub }) => {
      const client = createClient({ url: hub.http })
      const text = 'x'.repeat(3000)
      const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=latest')
      for (let from = 1; from <= 6000; from += 1000) await client.push(items(from, from + 999, 'fast', text))
      const proxy = await startFlakyProxy(hub.httpPort, 1, 0)
      proxy.heal()
      const numbers: number[] = []
      for await (const { readings } of createClient({ url: proxy.url }).feed({ mode: 'websocket', after: cursor })) {
        // 18 MB wait in the hub; all that may wait here are 2 MB and what is on its way: then the hub has no follower.
        if (numbers.length === 0) await waitFor(async () => !(await followers(hub)))
        numbers.push(...readings.map(({ values }) => values.n as number))
        if (numbers.length >= 6000) break
      }
      expect(numbers).toEqual(upTo(6000))
    },
  )

  for (const mode of modes.filter((name) => name !== 'websocket')) {
    test(`${mode} leaves a connection on which nothing is heard, and waits as long as it is asked to`, async () => {
      const times: number[] = []
      const frame = { readings: items(1, 1), cursor: 'c1', caughtUp: true }
      const { url } = await startServer((_request, response) => {
        times.push(Date.now())
        // Headers and then silence; then an outage; then the answer.
        if (times.length === 1) response.writeHead(200).flushHeaders()
        else if (times.length === 2) response.writeHead(503, { 'retry-after': '1' }).end('{"title":"Busy"}')
        else if (mode === 'sse') response.write(`id: c1\nevent: readings\ndata: ${JSON.stringify(frame)}\n\n`)
        else if (mode === 'ndjson') response.write(`${JSON.stringify({ ...frame.readings[0], cursor: 'c1' })}\n`)
        else response.end(JSON.stringify(frame))
      })
      const numbers: number[] = []
      expect(await read(url, { mode, after: 'c0', silenceMillis: 300 }, numbers, () => true)).toBe('c1')
      expect(numbers).toEqual([1])
      expect(times).toHaveLength(3)
      expect((times[2] as number) - (times[1] as number)).toBeGreaterThanOrEqual(990)
    })
  }

  test('a push without times is sent once, one with times until it is stored', async () => {
    let requests = 0
    const { url } = await startServer((_request, response) => {
      requests++
      if (requests <= 3) response.writeHead(503).end()
      else response.end('{"accepted":1,"duplicates":0,"cursor":"c"}')
    })
    const client = createClient({ url, token: 't' })
    await expect(client.push([{ device: 'a', values: { n: 1 } }])).rejects.toMatchObject({ status: 503 })
    expect(requests).toBe(1)
    expect(await client.push(items(1, 1))).toMatchObject({ accepted: 1 })
    expect(requests).toBe(4)
  })

  test('the token goes with every request, that of a WebSocket too', async () => {
    const seen: (string | undefined)[] = []
    let [requests, upgrades] = [0, 0]
    const { server, url } = await startServer((request, response) => {
      requests++
      seen.push(request.headers.authorization)
      response.writeHead(401).end()
    })
    server.on('upgrade', (request, socket) => {
      upgrades++
      seen.push(request.headers.authorization)
      socket.end('HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
    })
    for (const mode of modes) {
      const feed = createClient({ url, token: 'secret' }).feed({ mode, after: 'c' })
      await expect(feed.next()).rejects.toMatchObject({ name: 'ProblemError', status: 401 })
    }
    expect(new Set(seen)).toEqual(new Set(['Bearer secret']))
    // That of the WebSocket asks why it was refused.
    expect(requests).toBe(modes.length)
    // Some Nodes have a WebSocket that by itself tries a refused connection twice.
    const own = upgrades
    const socket = new (globalThis.WebSocket ?? WebSocket)(url)
    await new Promise<unknown>((resolve) => {
      socket.onerror = resolve
    })
    expect(own).toBe(upgrades - own)
  })
})

async function followers(hub: HubProcess): Promise<boolean> {
  return (await readFigures(hub)).hub_feed_followers !== 0
}
