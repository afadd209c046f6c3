import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { Aedes } from 'aedes'
import { parseOptions } from '../../simulator/options.ts'
import type { Summary } from '../../simulator/report.ts'
import { simulate } from '../../simulator/simulation.ts'

type Values = Record<string, unknown>

/** Another hub than ours: a real broker, and an HTTP server that pages through what the broker received. */
export interface StandInHub {
  broker: string
  http: string
  /** In their order, QoS 2 repeats of the network excluded. */
  received: { topic: string; payload: string; clientId: string }[]
  quarantine: string[]
  /** Every reading as it is stored; tests falsify it. */
  history: Map<string, { ts: number; values: Values }[]>
  requests: string[]
  connections(): number
  /** What happens before a message is taken and acknowledged. */
  gate: (payload: string) => Promise<void>
  cut(): void
  [Symbol.asyncDispose](): Promise<void>
}

const pageReadings = 7

export async function startStandInHub(): Promise<StandInHub> {
  const aedes = await Aedes.createBroker()
  const sockets = new Set<Socket>()
  const mqtt = createTcpServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    aedes.handle(socket)
  })
  mqtt.listen(0, '127.0.0.1')
  aedes.authorizePublish = (client, packet, done) => {
    const payload = packet.payload.toString()
    void hub.gate(payload).then(() => {
      hub.received.push({ topic: packet.topic, payload, clientId: client?.id ?? '' })
      store(hub, packet.topic.split('/')[1]!, payload)
      done(null)
    })
  }
  const http = createServer((request, response) => answer(hub)(request, response))
  http.listen(0, '127.0.0.1')
  await Promise.all([once(mqtt, 'listening'), once(http, 'listening')])

  const hub: StandInHub = {
    broker: `mqtt://127.0.0.1:${(mqtt.address() as AddressInfo).port}`,
    http: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    received: [],
    quarantine: [],
    history: new Map(),
    requests: [],
    connections: () => sockets.size,
    gate: async () => {},
    cut() {
      for (const socket of sockets) socket.destroy()
    },
    async [Symbol.asyncDispose]() {
      hub.cut()
      mqtt.close()
      http.closeAllConnections()
      http.close()
      await new Promise<void>((resolve) => aedes.close(resolve))
    },
  }
  return hub
}

function store(hub: StandInHub, device: string, payload: string): void {
  try {
    const body = JSON.parse(payload)
    for (const item of Array.isArray(body) ? body : [body]) {
      const { ts, values = { ...item, ts: null } } = item
      if (!(ts > Date.UTC(2000) && ts < Date.now() + 86_400_000)) throw new Error('time')
      if (JSON.stringify(values).length > 4096) throw new Error('size')
      const readings = hub.history.get(device) ?? []
      hub.history.set(device, readings)
      if (!readings.some((each) => each.ts === ts)) readings.push({ ts, values: flat(values) })
    }
  } catch {
    hub.quarantine.push(payload)
  }
}

function flat(values: Values, path = '', into: Values = {}): Values {
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'object' && value !== null) flat(value as Values, `${path}${name}.`, into)
    else if (value !== null) into[path + name] = value
  }
  return into
}

function answer(hub: StandInHub): RequestListener {
  return (request, response) => {
    hub.requests.push(request.headers.authorization ?? '')
    const url = new URL(request.url!, 'http://hub')
    const device = decodeURIComponent(url.pathname.split('/')[3]!)
    const [from, to, cursor] = ['from', 'to', 'cursor'].map((name) => Number(url.searchParams.get(name)))
    const all = (hub.history.get(device) ?? []).filter(({ ts }) => ts >= from! && ts < to!).sort((a, b) => a.ts - b.ts)
    const next = cursor! + pageReadings
    response.statusCode = hub.history.has(device) ? 200 : 404
    response.setHeader('content-type', 'application/json')
    const readings = all.slice(cursor, next)
    response.end(JSON.stringify({ device, readings, next: next < all.length ? String(next) : null }))
  }
}

/** A port of this machine where nobody listens. */
export async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** A whole run within this process, against the stand-in. */
export function run(hub: StandInHub, args: string[], progress: (line: string) => void = () => {}): Promise<Summary> {
  const options = parseOptions(['--broker', hub.broker, ...args])
  return simulate(options, { interrupted: new AbortController().signal, progress, progressEveryMillis: 20 })
}

export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}
