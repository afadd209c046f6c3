import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { onTestFinished } from 'vitest'

export interface Received {
  headers: IncomingHttpHeaders
  body: string
  method: string
  /** Differs where another connection was used. */
  port: number
}

/** A receiver of webhooks on a port of its own, which keeps what it got. It ends with the test. */
export interface Receiver {
  url: string
  received: Received[]
  readonly connections: number
}

export type Answer = (response: ServerResponse, request: Received, number: number) => void

export async function startReceiver(answer: Answer = (response) => void response.end()): Promise<Receiver> {
  const received: Received[] = []
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer(async (request: IncomingMessage, response) => {
    let body = ''
    request.setEncoding('utf8')
    try {
      for await (const chunk of request) body += chunk
    } catch {
      return
    }
    const port = request.socket.remotePort as number
    const got = { headers: request.headers, body, method: request.method as string, port }
    received.push(got)
    answer(response, got, received.length)
  })
  server.on('connection', (socket) => {
    connections++
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    received,
    get connections() {
      return connections
    },
  }
}

/** Answers with these statuses in turn, the last one for ever. */
export function statuses(...list: number[]): Answer {
  return (response, _request, number) => {
    response.statusCode = list[Math.min(number, list.length) - 1] as number
    response.end()
  }
}

/** Waits for a condition, never for a duration. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}
