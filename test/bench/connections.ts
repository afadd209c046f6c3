import { connect, type Socket } from 'node:net'
import { acknowledgementBytes, connectFrame, packetType } from './frames.ts'

/** What arrives after CONNACK. The bytes are overwritten as soon as the call returns. */
export type OnBytes = (index: number, bytes: Uint8Array, length: number) => void

// Below the backlog of the listeners, so that no connection attempt is repeated after a second.
const openAtOnce = 100
const readBytes = 64 * 1024
/** All sockets read into one buffer: what is in it is counted before the next one reads. */
const shared = Buffer.allocUnsafeSlow(readBytes)

/** Opens MQTT connections and waits until all of them are accepted. */
export async function openConnections(
  port: number,
  count: number,
  prefix: string,
  onBytes: OnBytes,
): Promise<Socket[]> {
  const sockets: Socket[] = []
  while (sockets.length < count) {
    const wave = Math.min(openAtOnce, count - sockets.length)
    const first = sockets.length
    const opened = Array.from({ length: wave }, (_, i) =>
      openConnection(port, `${prefix}${first + i}`, first + i, onBytes),
    )
    sockets.push(...(await Promise.all(opened)))
  }
  return sockets
}

function openConnection(port: number, clientId: string, index: number, onBytes: OnBytes): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let accepted = false
    const socket = connect({
      port,
      host: '127.0.0.1',
      noDelay: true,
      onread: {
        buffer: shared,
        callback(length, bytes) {
          if (accepted) {
            onBytes(index, bytes, length)
            return true
          }
          accepted = true
          if (bytes[0] !== packetType.connack || bytes[3] !== 0 || length < acknowledgementBytes) {
            reject(new Error(`connection ${index} was not accepted`))
            return false
          }
          resolve(socket)
          if (length > acknowledgementBytes)
            onBytes(index, bytes.subarray(acknowledgementBytes), length - acknowledgementBytes)
          return true
        },
      },
    })
    socket.on('error', reject)
    socket.on('close', () => {
      if (closing.has(socket)) return
      // A server that ends a connection makes every later figure wrong.
      if (accepted) throw new Error(`the server has ended connection ${index}`)
      reject(new Error(`connection ${index} has ended before it was accepted`))
    })
    socket.write(connectFrame(clientId))
  })
}

const closing = new WeakSet<Socket>()

export function closeConnections(sockets: readonly Socket[]): void {
  for (const socket of sockets) {
    closing.add(socket)
    socket.destroy()
  }
}
