import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import { answer, helperOptions } from './children.ts'
import { now } from './clock.ts'
import { stampAges } from './frames.ts'
import { type Spread, spread } from './statistics.ts'

/*
 * Live readers of the feed, on raw sockets: they must cost little, as they share the machine with the hub. Some of them
 * look for the stamps of the load generator in what they get, the others only count bytes.
 */

export interface FollowersOptions {
  port: number
  webSockets: number
  eventStreams: number
  /** Whether they look for stamps. */
  timed: boolean
}

export interface FollowersResult {
  bytes: number
  /** Milliseconds from the sending of a reading to its arrival. */
  webSocket: Spread
  eventStream: Spread
}

// Without compression offered and a mask from the server, a WebSocket frame holds its JSON as it is. RFC 6455 §5
const upgrade = (host: string): string =>
  `GET /v1/feed HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`
const subscribe = (host: string): string =>
  `GET /v1/feed HTTP/1.1\r\nHost: ${host}\r\nAccept: text/event-stream\r\n\r\n`

const shared = Buffer.allocUnsafeSlow(256 * 1024)
// What may be a stamp cut in two at the end of a read.
const tailLength = 16

async function main({ port, webSockets, eventStreams, timed }: FollowersOptions): Promise<void> {
  let bytes = 0
  let measuring = false
  const host = `127.0.0.1:${port}`

  function follow(request: string, samples: number[] | null): Promise<Socket> {
    return new Promise((resolve, reject) => {
      let accepted = false
      let tail = ''
      const callback = (length: number, read: Uint8Array): boolean => {
        if (!accepted) {
          accepted = /^HTTP\/1\.1 (101|200) /.test(Buffer.from(read.buffer, read.byteOffset, 16).toString('latin1'))
          if (accepted) resolve(socket)
          else reject(new Error(`the hub refuses a reader: ${Buffer.from(read.buffer, read.byteOffset, length)}`))
        }
        bytes += length
        if (samples && measuring) {
          const arrived = now()
          const text = tail + Buffer.from(read.buffer, read.byteOffset, length).toString('latin1')
          samples.push(...stampAges(text, arrived))
          // A stamp that was whole must not be found again.
          tail = text.slice(Math.max(text.length - tailLength, text.lastIndexOf('"sent":') + tailLength))
        }
        return true
      }
      const socket = connect({ port, host: '127.0.0.1', onread: { buffer: shared, callback } })
      socket.on('error', reject)
      socket.write(request)
    })
  }

  const samples = { webSocket: [] as number[], eventStream: [] as number[] }
  for (let i = 0; i < webSockets; i++) await follow(upgrade(host), timed ? samples.webSocket : null)
  for (let i = 0; i < eventStreams; i++) await follow(subscribe(host), timed ? samples.eventStream : null)
  process.on('message', ({ kind }: { kind: string }) => {
    if (kind === 'measure') {
      measuring = true
      bytes = 0
    } else {
      const result: FollowersResult = {
        bytes,
        webSocket: spread(samples.webSocket),
        eventStream: spread(samples.eventStream),
      }
      void answer({ kind: 'done', result }).then(() => process.exit(0))
    }
  })
  await answer({ kind: 'following' })
}

if (process.argv[1] === import.meta.filename) await main(helperOptions<FollowersOptions>())
