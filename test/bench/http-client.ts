import { Agent, get, type IncomingMessage } from 'node:http'
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
}

export function fetchText(port: number, path: string, agent?: Agent): Promise<Fetched> {
  return request(port, path, agent, (chunks) => Buffer.concat(chunks).toString())
}

/** The same without looking at the content. */
export function fetchBytes(port: number, path: string, agent?: Agent): Promise<Fetched> {
  return request(port, path, agent, () => '')
}

function request(
  port: number,
  path: string,
  agent: Agent | undefined,
  read: (chunks: Buffer[]) => string,
): Promise<Fetched> {
  return new Promise((resolve, reject) => {
    const begun = now()
    const sent = get({ host: '127.0.0.1', port, path, ...(agent ? { agent } : {}) }, (response: IncomingMessage) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const millis = now() - begun
        const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
        if (response.statusCode !== 200) {
          reject(new Error(`GET ${path} was answered with ${response.statusCode}: ${Buffer.concat(chunks)}`))
        } else resolve({ text: read(chunks), bytes, millis })
      })
    })
    sent.on('error', reject)
  })
}
