import type { AddressInfo, Socket } from 'node:net'
import { createServer, type PeerCertificate, type SecureContextOptions, type TLSSocket } from 'node:tls'
import type { Millis } from '../devices/reading.ts'
import type { Peer } from './peer.ts'

/** Connections over TLS. */
export interface TlsListener {
  port: number
  /** From now on new connections get this; those that are open stay as they are. */
  renew(tls: SecureContextOptions): void
  /** No new connections; resolves when those that are open have ended. */
  close(): Promise<void>
}

export interface TlsListenerOptions {
  port: number
  host: string
  /** With `ca`, clients are asked for a certificate; they need not have one. */
  tls: SecureContextOptions
  handshakeTimeout: Millis
  /** A connection whose handshake may never end. */
  onSocket(socket: Socket): void
  onConnection(socket: TLSSocket, peer: Peer): void
  onRefused(peer: Peer, reason: string): void
}

export function listenTls(options: TlsListenerOptions): Promise<TlsListener> {
  const { port, host, tls, handshakeTimeout, onSocket, onConnection, onRefused } = options
  const server = createServer(
    { ...tls, requestCert: tls.ca !== undefined, rejectUnauthorized: false, handshakeTimeout, noDelay: true },
    (socket) => {
      const peer = { address: socket.remoteAddress ?? '', names: [] as string[], secure: true }
      // Who has no certificate may come in; one that is not good is never taken for none.
      if (socket.getPeerX509Certificate() !== undefined) {
        if (!socket.authorized) {
          onRefused(peer, `its certificate is not good: ${socket.authorizationError}`)
          return socket.destroy()
        }
        peer.names = namesOf(socket.getPeerCertificate())
      }
      onConnection(socket, peer)
    },
  )
  server.on('connection', onSocket)
  server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    // A look whether the port is open is no attempt.
    if (error.code === 'ECONNRESET') return
    onRefused({ address: socket.remoteAddress ?? '', names: [], secure: true }, `no TLS: ${error.message}`)
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve({
        port: (server.address() as AddressInfo).port,
        renew: (renewed) => server.setSecureContext(renewed),
        close: () => new Promise((done) => void server.close(() => done())),
      })
    })
  })
}

// Node writes a name that holds anything doubtful as JSON, so that no name can pretend to be two.
const alternativeName = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/gy

/** Common name, DNS names and URIs of a certificate. */
export function namesOf({
  subject,
  subjectaltname = '',
}: Pick<PeerCertificate, 'subject' | 'subjectaltname'>): string[] {
  const names = [subject?.CN ?? []].flat()
  for (const [, kind, value = ''] of subjectaltname.matchAll(alternativeName)) {
    if (kind === 'DNS' || kind === 'URI') names.push(value.startsWith('"') ? (JSON.parse(value) as string) : value)
  }
  return [...new Set(names)]
}
