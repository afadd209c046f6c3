import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContextOptions } from 'node:tls'
import type { Millis } from '../devices/reading.ts'
import type { Peer } from './peer.ts'
import { listenTls, type TlsListener } from './tls-listener.ts'
import { socketBuffer } from './writes.ts'

export interface DoorsOptions {
  handshakeTimeout: Millis
  /** Somebody has come. */
  onSocket(socket: Socket, peer: Peer): void
  /** Nobody comes in by this. */
  onRefused(peer: Peer | undefined, reason: string): void
}

// A peer that has lost its power says nothing more, and its connection would stay for ever: the system asks.
const probeMillis = 60_000

/** Where connections come in, by TCP and TLS; and all streams that are open, by whatever way they came. */
export function createDoors({ handshakeTimeout, onSocket, onRefused }: DoorsOptions) {
  const streams = new Set<Duplex>()
  const tlsListeners: TlsListener[] = []
  const options = { highWaterMark: socketBuffer, noDelay: true, keepAlive: true, keepAliveInitialDelay: probeMillis }
  const server = createServer({ ...options, pauseOnConnect: true }, (socket) => {
    onSocket(socket, { address: socket.remoteAddress ?? '', names: [], secure: false })
  })
  // Accepting one connection may fail, for want of memory or files, and the next one may succeed.
  server.on('error', (error) => onRefused(undefined, error.message))

  function track(stream: Duplex): void {
    // Until somebody else listens.
    stream.on('error', () => {})
    streams.add(stream)
    stream.on('close', () => streams.delete(stream))
  }

  return {
    track,
    listen: (port: number, host: string): Promise<number> => listen(server, port, host),
    async listenTls(port: number, host: string, tls: SecureContextOptions): Promise<TlsListener> {
      const listener = await listenTls({
        port,
        host,
        tls,
        handshakeTimeout,
        onSocket: track,
        onConnection: onSocket,
        onRefused,
      })
      tlsListeners.push(listener)
      return listener
    },
    /** No new connections; resolves when those that are open have ended, for which `settled` is waited. */
    async close(settled: () => Promise<void>): Promise<void> {
      const closed = [
        new Promise<void>((resolve) => server.close(() => resolve())),
        ...tlsListeners.map((listener) => listener.close()),
      ]
      await settled()
      for (const stream of streams) stream.destroy()
      await Promise.all(closed)
    },
  }
}

function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve((server.address() as { port: number }).port)
    })
  })
}
