import { Agent, type IncomingMessage, request } from 'node:http'
import type { Socket } from 'node:net'
import { now } from './clock.ts'

/** One connection that stays open, as a dashboard or a script would use it. */
export function createAgent(): Agent {
  return new Agent({ keepAlive: true, maxSockets: 1 })
}

export interface Fetched {
  text: string
  bytes: number
  /** Until the last byte of the body. */
  millis: number
  /** The connection, whose counters tell what went over the wire. */
  socket: Socket
}

export function fetchText(port: number, path: string, agent?: Agent): Promise<Fetched> {
  return exchange({ port, path, method: 'GET', agent }, null, textOf)
}

/** The same without looking at the content. */
export function fetchBytes(port: number, path: string, agent?: Agent): Promise<Fetched> {
  return exchange({ port, path, method: 'GET', agent }, null, () => '')
}

export function sendJson(
  port: number,
  method: 'POST' | 'PUT' | 'DELETE',
  path: string,
  body: object,
  agent?: Agent,
): Promise<Fetched> {
  return exchange({ port, path, method, agent }, JSON.stringify(body), textOf)
}

interface Target {
  port: number
  path: string
  method: string
  agent: Agent | undefined
}

function exchange(target: Target, body: string | null, read: (chunks: Buffer[]) => string): Promise<Fetched> {
  const { port, path, method, agent } = target
  // With its length, a body leaves together with its headers and is not cut into chunks.
  const headers = body === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
  return new Promise((resolve, reject) => {
    const begun = now()
    const options = { host: '127.0.0.1', port, path, method, headers, ...(agent ? { agent } : {}) }
    const sent = request(options, (response: IncomingMessage) => {
      const { socket, statusCode = 0 } = response
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const millis = now() - begun
        const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
        if (statusCode < 200 || statusCode > 299) {
          reject(new Error(`${method} ${path} was answered with ${statusCode}: ${Buffer.concat(chunks)}`))
        } else resolve({ text: read(chunks), bytes, millis, socket })
      })
    })
    sent.on('error', reject)
    sent.end(body ?? undefined)
  })
}

function textOf(chunks: Buffer[]): string {
  return Buffer.concat(chunks).toString()
}
