import { connect, createServer, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import { createRandom } from '../random.ts'

export interface FlakyProxy {
  url: string
  readonly cuts: number
  /** From now on connections stay. */
  heal(): void
}

/** A middle that cuts each connection after so many bytes of the answer, wherever that is; the seed says after how many. */
export async function startFlakyProxy(port: number, seed: number, maxBytes: number): Promise<FlakyProxy> {
  const random = createRandom(seed)
  const sockets = new Set<Socket>()
  let cuts = 0
  let healthy = false
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    let left = random.integer(0, maxBytes)
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        near.destroy()
        far.destroy()
      })
    }
    near.pipe(far)
    far.on('data', (chunk: Buffer) => {
      if (healthy || chunk.length <= left) {
        left -= chunk.length
        near.write(chunk)
        return
      }
      cuts++
      far.pause()
      near.write(chunk.subarray(0, left), () => near.destroy())
    })
    far.on('end', () => near.end())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address() as { port: number }
  return {
    url: `http://127.0.0.1:${address.port}`,
    get cuts() {
      return cuts
    },
    heal() {
      healthy = true
    },
  }
}
