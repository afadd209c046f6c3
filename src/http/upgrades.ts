import type { IncomingMessage } from 'node:http'
import { Server as HttpsServer } from 'node:https'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { Problem } from '../errors.ts'
import type { Guards } from './guards.ts'

type Taker = (request: IncomingMessage, socket: Socket, head: Buffer) => void

/**
 * A request may offer to go on in another protocol, and who does not speak that one answers as if it had not been
 * offered (RFC 9110 §7.8): curl and Java offer HTTP/2 with every request. Node hands all of them over to whoever waits
 * for WebSockets, so those that want none are given back to the server, as a connection that begins with the same
 * request without its offer. Called when those who wait are there, and before there are routes.
 *
 * Since 24.9 Node asks first which of them it shall hand over: `isForWebSockets`.
 */
export function takeUpgrades(app: FastifyInstance, { isAnswering }: Guards): void {
  const { server } = app
  const takers = server.listeners('upgrade') as Taker[]
  const begun = server instanceof HttpsServer ? 'secureConnection' : 'connection'
  server.removeAllListeners('upgrade')
  server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    if (wantsWebSocket(request)) {
      for (const take of takers) take.call(server, request, socket, head)
    } else if (isAnswering(socket)) {
      // The server it is given back to would not know what is still to be answered before.
      socket.destroy()
    } else {
      socket.unshift(Buffer.concat([Buffer.from(headWithoutOffer(request), 'latin1'), head]))
      server.emit(begun, socket)
    }
  })

  const spoken = new Set<string | undefined>()
  app.addHook('onRoute', ({ url, wsHandler }) => {
    if (wsHandler) spoken.add(url)
  })
  app.addHook('onRequest', async ({ raw, routeOptions }) => {
    if (!(raw as { upgrade?: boolean }).upgrade || spoken.has(routeOptions.url)) return
    throw new Problem('not-found', 'no WebSocket is spoken here', `it is at ${[...spoken].join(' and ')}`)
  })
}

/** An offer is one only where `Connection` names it. RFC 9110 §7.8 */
export function wantsWebSocket({ headers }: IncomingMessage): boolean {
  return /(^|,)\s*upgrade\s*(,|$)/i.test(headers.connection ?? '') && headers.upgrade?.toLowerCase() === 'websocket'
}

/** Before the new protocol, a body would have to be read by the old one. RFC 9110 §7.8 */
export function isForWebSockets(request: IncomingMessage): boolean {
  const { 'content-length': length, 'transfer-encoding': coding } = request.headers
  return wantsWebSocket(request) && coding === undefined && Number(length ?? 0) === 0
}

function headWithoutOffer({ method, url, httpVersion, rawHeaders }: IncomingMessage): string {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name = '', value = ''] = rawHeaders.slice(i, i + 2)
    if (isOffer(name)) continue
    if (name.toLowerCase() !== 'connection') head += `${name}: ${value}\r\n`
    else {
      const kept = value.split(',').filter((option) => !isOffer(option.trim()))
      if (kept.length > 0) head += `${name}: ${kept.join(',')}\r\n`
    }
  }
  return `${head}\r\n`
}

// RFC 7540 §3.2.1
function isOffer(name: string): boolean {
  return /^(upgrade|http2-settings)$/i.test(name)
}
