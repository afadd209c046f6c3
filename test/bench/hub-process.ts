import type { ChildProcess } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { startProcess, stopProcess } from './children.ts'
import { now } from './clock.ts'
import { createFolder, removeFolder } from './folders.ts'
import { fetchText } from './http-client.ts'

export interface HubProcess {
  pid: number
  mqttPort: number
  httpPort: number
  /** Milliseconds from the start of the process until it said that it is ready. */
  readyMillis: number
  /** The sum of a counter or gauge in `/metrics`. */
  metric(name: string): Promise<number>
  /** Ends it; what it stored goes too, unless the folder was given. */
  stop(): Promise<void>
}

export interface HubOptions {
  /** Without it a fresh folder. */
  data?: string
  profiles?: string | null
  /** Further settings, as on the command line. */
  settings?: readonly string[]
}

const program = fileURLToPath(new URL('../../src/main.js', import.meta.url))

// The hub runs as it is installed: with the options that its first line gives to Node.
const flagsOfNode =
  /^#!.*\bnode((?: --\S+)*)/.exec(readFileSync(program, 'utf8'))?.[1]?.split(' ').filter(Boolean) ?? []

export async function startHub({ data, profiles = null, settings = [] }: HubOptions = {}): Promise<HubProcess> {
  const folder = createFolder('hub')
  const ports = ['--mqtt-port', '0', '--http-port', '0']
  const flags = ['--data', data ?? join(folder, 'data'), ...ports, '--log-level', 'info', ...settings]
  const begun = now()
  const child = startProcess(process.execPath, [...flagsOfNode, ...profileFlags(profiles), program, ...flags], {
    // Away from any hub.yaml, and without settings from the environment of whoever measures.
    cwd: folder,
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HUB_'))),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const { mqttPort, httpPort } = await readReadyLine(child)
  return {
    pid: child.pid as number,
    mqttPort,
    httpPort,
    readyMillis: now() - begun,
    async metric(name) {
      const { text } = await fetchText(httpPort, '/metrics')
      const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `))
      return Number(line?.split(' ')[1] ?? Number.NaN)
    },
    async stop() {
      await stopProcess(child)
      removeFolder(folder)
    },
  }
}

function profileFlags(folder: string | null): string[] {
  if (folder === null) return []
  mkdirSync(folder, { recursive: true })
  return ['--cpu-prof', '--cpu-prof-interval', '500', '--cpu-prof-dir', resolve(folder)]
}

/** The log is JSON, one object a line; the one with the ports says that the hub is ready. */
function readReadyLine(child: ChildProcess): Promise<{ mqttPort: number; httpPort: number }> {
  return new Promise((resolve, reject) => {
    let complaints = ''
    child.stderr?.on('data', (chunk) => {
      if (complaints.length < 2000) complaints += chunk
    })
    child.once('exit', (code) => reject(new Error(`the hub has ended with ${code}: ${complaints}`)))
    if (!child.stdout) return
    // Read to the end also after the line, or a hub that logs much would wait for its reader.
    createInterface(child.stdout).on('line', (line) => {
      const entry = line.startsWith('{') ? (JSON.parse(line) as { mqttPort?: number; httpPort?: number }) : {}
      if (entry.mqttPort && entry.httpPort) resolve({ mqttPort: entry.mqttPort, httpPort: entry.httpPort })
    })
  })
}
