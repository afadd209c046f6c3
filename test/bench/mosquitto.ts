import { existsSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startProcess, stopProcess } from './children.ts'
import { createFolder, removeFolder } from './folders.ts'

export interface Mosquitto {
  pid: number
  port: number
  stop(): Promise<void>
}

// Where packages put servers is often not on the path of a user.
const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', '/opt/homebrew/sbin']

/** The program, or `null` where it is not installed. */
export const mosquittoProgram =
  folders.map((folder) => join(folder, 'mosquitto')).find((path) => existsSync(path)) ?? null

/** Mosquitto as fast as it can be configured: no persistence, no limits on queues, no waiting for fuller packets. */
export async function startMosquitto(): Promise<Mosquitto> {
  if (mosquittoProgram === null) throw new Error('BUG: asked for Mosquitto where there is none')
  const folder = createFolder('mosquitto')
  const file = join(folder, 'mosquitto.conf')
  const port = await freePort()
  const settings = [
    `listener ${port} 127.0.0.1`,
    'allow_anonymous true',
    'set_tcp_nodelay true',
    'max_queued_messages 0',
    'max_inflight_messages 0',
    'persistence false',
    'sys_interval 0',
    'log_type error',
    // As root it would change to a user that may not exist.
    ...(process.getuid?.() === 0 ? ['user root'] : []),
  ]
  writeFileSync(file, `${settings.join('\n')}\n`)
  const child = startProcess(mosquittoProgram, ['-c', file], { stdio: 'ignore' })
  await accepting(port)
  return {
    pid: child.pid as number,
    port,
    async stop() {
      await stopProcess(child)
      removeFolder(folder)
    },
  }
}

// Mosquitto does not tell which port it chose, so it gets one that was free a moment ago.
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer()
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}

async function accepting(port: number): Promise<void> {
  for (let attempt = 0; attempt < 250; attempt++) {
    const accepted = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy()
        resolve(true)
      })
      socket.on('error', () => resolve(false))
    })
    if (accepted) return
    await sleep(20)
  }
  throw new Error('Mosquitto does not accept connections')
}
