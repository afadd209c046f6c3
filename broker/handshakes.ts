import type { Socket } from 'node:net'
import { createServer, type PeerCertificate, type SecureContextOptions, type TLSSocket } from 'node:tls'
import type { Millis } from '../devices/reading.ts'
import { LimitReached } from './limits.ts'
import type { Peer } from './peer.ts'

/** Speaks TLS on connections that somebody else has accepted. */
export interface Handshakes {
  begin(socket: Socket): void
  /** From now on new connections get this; those that are open stay as they are. */
  renew(tls: SecureContextOptions): void
}

interface HandshakesOptions {
  /** With `ca`, clients are asked for a certificate; they need not have one. */
  tls: SecureContextOptions
  timeout: Millis
  onConnection(socket: TLSSocket, peer: Peer): void
  onRefused(peer: Peer, error: Error): void
}

export function createHandshakes({ tls, timeout, onConnection, onRefused }: HandshakesOptions): Handshakes {
  const asked = { requestCert: tls.ca !== undefined, rejectUnauthorized: false }
  // It never listens.
  const server = createServer({ ...tls, ...asked, handshakeTimeout: timeout }, (socket) => {
    const peer = { address: socket.remoteAddress ?? '', names: [] as string[], secure: true }
    // Who has no certificate may come in; one that is not good is never taken for none.
    if (socket.getPeerX509Certificate() !== undefined) {
      if (!socket.authorized) {
        onRefused(peer, new Error(`its certificate is not good: ${socket.authorizationError}`))
        return socket.destroy()
      }
      peer.names = namesOf(socket.getPeerCertificate())
    }
    onConnection(socket, peer)
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    const { remoteAddress: address = '' } = socket
    // Node only tells, and leaves the connection open.
    socket.destroy()
    // A look whether the port is open is no attempt.
    if (error.code === 'ECONNRESET') return
    const late = error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT'
    const reason = late ? `no TLS within ${timeout / 1000} s` : `no TLS: ${error.message}`
    onRefused(
      { address, names: [], secure: true },
      late ? new LimitReached('connectTimeout', reason) : new Error(reason),
    )
  })
  return {
    begin: (socket) => void server.emit('connection', socket),
    renew: (renewed) => server.setSecureContext(renewed),
  }
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
