import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectAsync } from 'mqtt'
import { WebSocket } from 'ws'
import { answer, helperOptions } from './children.ts'
import { now } from './clock.ts'
import { stampAges } from './frames.ts'
import { createAgent, fetchText, sendJson } from './http-client.ts'
import { type Spread, spread } from './statistics.ts'

/*
 * One reader of everything that is stored, by one of the ways out of the hub, with the clients that people use. It looks
 * for the stamps of the load generator in what it gets, and counts messages and the bytes of its connections.
 */

export interface ReaderOptions {
  way: Way
  mqttPort: number
  httpPort: number
}

export interface ReaderResult {
  readings: number
  /** Packets, frames, events or lines with readings; or requests, also those that bring none. */
  messages: number
  /** In both directions, with all headers above TCP. */
  bytes: number
  /** Milliseconds from the sending of a reading until the message that holds it is here as a whole. */
  latency: Spread
}

export type Way = keyof typeof ways
type Hub = Omit<ReaderOptions, 'way'>

interface Tally {
  message(text: string): void
  /** To be counted from now on; twice is once. */
  connection(socket: Socket): void
}

/** Begins to read; resolves with what ends it, as far as the hub must know. */
type Begin = (hub: Hub, tally: Tally) => Promise<() => Promise<unknown>>

const ways = {
  mqtt0: subscribe(0),
  mqtt1: subscribe(1),
  webSocket,
  eventStream: stream('text/event-stream', '\n\n'),
  lines: stream('application/x-ndjson', '\n'),
  longPoll: poll('&wait=30', 0),
  poll: poll('', 1000),
  consumer,
  webhook: webhook({}),
  webhookAtOnce: webhook({ batchWait: '0' }),
} satisfies Record<string, Begin>

const nothing = () => Promise.resolve()

function subscribe(qos: 0 | 1): Begin {
  return async ({ mqttPort }, tally) => {
    const client = await connectAsync(`mqtt://127.0.0.1:${mqttPort}`)
    tally.connection(client.stream as Socket)
    client.on('message', (_topic, payload) => tally.message(payload.toString()))
    await client.subscribeAsync('devices/+/telemetry', { qos })
    return nothing
  }
}

async function webSocket({ httpPort }: Hub, tally: Tally): Promise<() => Promise<void>> {
  const socket = new WebSocket(`ws://127.0.0.1:${httpPort}/v1/feed`)
  socket.on('upgrade', (response: IncomingMessage) => tally.connection(response.socket))
  socket.on('message', (data) => tally.message(String(data)))
  // The first frame tells the place from which on nothing is missed.
  await once(socket, 'message')
  return nothing
}

function stream(accept: string, separator: string): Begin {
  return async ({ httpPort }, tally) => {
    const request = get({ host: '127.0.0.1', port: httpPort, path: '/v1/feed', headers: { accept } })
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    tally.connection(response.socket)
    let rest = ''
    response.setEncoding('utf8').on('data', (chunk: string) => {
      const parts = (rest + chunk).split(separator)
      rest = parts.pop() ?? ''
      for (const part of parts) tally.message(part)
    })
    await once(response, 'data')
    return nothing
  }
}

/** One request after another, each with the cursor of the one before. */
function poll(query: string, pauseMillis: number): Begin {
  return async ({ httpPort }, tally) => {
    const agent = createAgent()
    let cursor = 'latest'
    async function ask(query: string): Promise<void> {
      const { text, socket } = await fetchText(httpPort, `/v1/feed?after=${cursor}${query}`, agent)
      tally.connection(socket)
      tally.message(text)
      cursor = (JSON.parse(text) as { cursor: string }).cursor
    }
    async function goOn(): Promise<never> {
      for (;;) {
        if (pauseMillis > 0) await sleep(pauseMillis)
        await ask(query)
      }
    }
    await ask('')
    void goOn()
    return nothing
  }
}

async function consumer({ httpPort }: Hub, tally: Tally): Promise<() => Promise<unknown>> {
  const agent = createAgent()
  const address = '/v1/consumers/bench'
  await sendJson(httpPort, 'PUT', address, { start: 'latest' }, agent)
  async function post(verb: string, body: object): Promise<string> {
    const { text, socket } = await sendJson(httpPort, 'POST', `${address}/${verb}`, body, agent)
    tally.connection(socket)
    tally.message(text)
    return text
  }
  let ended = false
  async function work(): Promise<void> {
    while (!ended) {
      const { deliveries } = JSON.parse(await post('receive', { max: 1000, wait: '1s' })) as Received
      const last = deliveries.at(-1)
      if (last) await post('acknowledge', { upTo: last.id })
    }
    await sendJson(httpPort, 'DELETE', address, {}, agent)
  }
  const worked = work()
  return () => {
    ended = true
    return worked
  }
}

interface Received {
  deliveries: { id: string }[]
}

function webhook(push: object): Begin {
  return async ({ httpPort }, tally) => {
    const server = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request.setEncoding('utf8')) body += chunk
      tally.message(body)
      response.writeHead(204).end()
    })
    server.on('connection', tally.connection)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    await sendJson(httpPort, 'PUT', '/v1/consumers/bench', { start: 'latest', push: { url, ...push } })
    return () => sendJson(httpPort, 'DELETE', '/v1/consumers/bench', {})
  }
}

async function main({ way, ...hub }: ReaderOptions): Promise<void> {
  const connections = new Set<Socket>()
  const latencies: number[] = []
  let measuring = false
  let messages = 0
  let bytesBefore = 0

  const tally: Tally = {
    message(text) {
      if (!measuring) return
      latencies.push(...stampAges(text, now()))
      messages++
    },
    connection: (socket) => void connections.add(socket),
  }
  function bytesSoFar(): number {
    let bytes = 0
    for (const { bytesRead, bytesWritten } of connections) bytes += bytesRead + bytesWritten
    return bytes
  }

  const end = await ways[way](hub, tally)
  process.on('message', async ({ kind }: { kind: string }) => {
    if (kind === 'measure') {
      measuring = true
      bytesBefore = bytesSoFar()
      return
    }
    measuring = false
    const bytes = bytesSoFar() - bytesBefore
    const result: ReaderResult = { readings: latencies.length, messages, bytes, latency: spread(latencies) }
    await end()
    await answer({ kind: 'done', result })
    process.exit(0)
  })
  await answer({ kind: 'reading' })
}

// Imported for its types, it does nothing.
if (process.argv[1] === import.meta.filename) await main(helperOptions<ReaderOptions>())
