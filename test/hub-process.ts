import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { generate } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'

export const mainFile = fileURLToPath(new URL('../src/main.js', import.meta.url))
export const simulatorFile = fileURLToPath(new URL('../simulator/main.js', import.meta.url))

/** A hub in a process of its own, as users run it. */
export interface HubProcess {
  mqttPort: number
  /** 0 without a certificate. */
  mqttTlsPort: number
  httpPort: number
  mqtt: string
  http: string
  folder: string
  pid: number
  /** `null` while it runs. */
  exitCode(): number | null
  /** All that it printed. */
  output(): string
  /** Sends the signal and waits for the end; resolves with the exit code, or `null` after a signal. */
  kill(signal: NodeJS.Signals): Promise<number | null>
  get<T>(path: string, init?: RequestInit): Promise<T>
}

export interface HubProcessOptions {
  folder?: string
  mqttPort?: number
  httpPort?: number
  args?: string[]
  /** Flags of Node. */
  node?: string[]
  /** Runs before the hub in the same shell, such as a limit of resources. */
  shell?: string
}

/** Called when what it was registered for is over: a test, or all tests of a file. */
export type OnFinished = (finish: () => Promise<void>) => void

/** A folder that goes away with the test. */
export async function temporaryFolder(onFinished: OnFinished = onTestFinished): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'telemetry-hub-'))
  onFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/**
 * A test that asks for `hub` gets one that all tests of its file share, as long as they keep to devices of their own:
 * a hub of one's own costs a second of the processor.
 */
export const testSharing = <Hub>(start: (onFinished: OnFinished) => Promise<Hub>) =>
  test.extend<{ hub: Hub }>({
    hub: [
      // biome-ignore lint/correctness/noEmptyPattern: Vitest reads from it what else the hub needs
      async ({}, use: (hub: Hub) => Promise<void>) => {
        const finishes: (() => Promise<void>)[] = []
        await use(await start((finish) => finishes.push(finish)))
        for (const finish of finishes.reverse()) await finish()
      },
      { scope: 'file' },
    ],
  })

export const hubTestWith = (...args: string[]) => testSharing((onFinished) => startHubProcess({ args }, onFinished))

export const hubTest = hubTestWith()

/** Starts a hub that ends with the test, and waits until it is ready. Ports are free ones unless they are given. */
export async function startHubProcess(
  options: HubProcessOptions = {},
  onFinished: OnFinished = onTestFinished,
): Promise<HubProcess> {
  const folder = options.folder ?? (await temporaryFolder(onFinished))
  const args = [
    ...(options.node ?? []),
    mainFile,
    ...['--data', folder],
    ...['--mqtt-port', String(options.mqttPort ?? 0)],
    ...['--mqtt-tls-port', '0'],
    ...['--http-port', String(options.httpPort ?? 0)],
    ...(options.args ?? []),
  ]
  const child = options.shell
    ? spawn('bash', ['-c', `${options.shell}; exec "$@"`, 'hub', process.execPath, ...args])
    : spawn(process.execPath, args)
  onFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) await end(child, 'SIGKILL')
    // Of listeners that add up, of what is deprecated: such as end in nobody's log but that of the user.
    expect(output).not.toMatch(/^\(node:\d+\)/m)
  })
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  child.stderr.on('data', (chunk) => {
    output += chunk
  })
  const ready = await waitFor(() => {
    if (child.exitCode !== null) throw new Error(`the hub has ended with ${child.exitCode}:\n${output}`)
    return output.split('\n').find((line) => line.includes('"httpPort"'))
  })
  const { mqttPort = 0, mqttTlsPort = 0, httpPort } = JSON.parse(ready) as Partial<HubProcess> & { httpPort: number }
  const http = `http://127.0.0.1:${httpPort}`
  return {
    mqttPort,
    mqttTlsPort,
    httpPort,
    mqtt: `mqtt://127.0.0.1:${mqttPort}`,
    http,
    folder,
    pid: child.pid as number,
    exitCode: () => child.exitCode,
    output: () => output,
    kill: (signal) => end(child, signal),
    async get<T>(path: string, init?: RequestInit): Promise<T> {
      const response = await fetch(http + path, init)
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`)
      return (await response.json()) as T
    },
  }
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const exit = once(child, 'exit')
  child.kill(signal)
  await exit
  return child.exitCode
}

/** Runs a program to its end. */
export async function run(
  file: string,
  args: string[],
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [file, ...args])
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  await once(child, 'close')
  return { code: child.exitCode, stdout, stderr }
}

/** Looks again and again until there is a result; the test's own time limit ends a search in vain. */
export async function waitFor<T>(
  look: () => T | undefined | null | false | Promise<T | undefined | null | false>,
): Promise<T> {
  for (;;) {
    const found = await look()
    if (found) return found
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** The figures of `/metrics` by their name, with its labels. */
export async function readFigures(hub: HubProcess): Promise<Record<string, number>> {
  const text = await (await fetch(`${hub.http}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return Object.fromEntries(lines.map((line) => [line.replace(/ \S+$/, ''), Number(line.split(' ').at(-1))]))
}

interface FeedReading {
  device: string
  ts: number
  values: Record<string, unknown>
  received: number
}

/** The whole log, page by page. */
export async function readWholeFeed(hub: HubProcess, query = ''): Promise<FeedReading[]> {
  const readings: FeedReading[] = []
  let after = 'earliest'
  for (;;) {
    const page = await hub.get<{ readings: FeedReading[]; cursor: string; caughtUp: boolean }>(
      `/v1/feed?after=${after}&limit=5000${query}`,
    )
    readings.push(...page.readings)
    if (page.caughtUp) return readings
    after = page.cursor
  }
}

export interface HistoryRow {
  ts: number
  values: Record<string, unknown>
}

/** The whole raw history of a device, page by page. */
export async function readWholeHistory(hub: HubProcess, device: string): Promise<HistoryRow[]> {
  const rows: HistoryRow[] = []
  let cursor = ''
  for (;;) {
    const page = await hub.get<{ readings: HistoryRow[]; next: string | null }>(
      `/v1/devices/${encodeURIComponent(device)}/telemetry?limit=5000${cursor}`,
    )
    rows.push(...page.readings)
    if (page.next === null) return rows
    cursor = `&cursor=${page.next}`
  }
}

/** A client made of bytes, for what a well-behaved library would not send. Its CONNACK has arrived. */
export async function rawClient(
  hub: HubProcess,
  clientId: string,
  { clean = true, keepalive = 0 } = {},
): Promise<Socket> {
  const socket = connect(hub.mqttPort, '127.0.0.1')
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  socket.write(generate({ cmd: 'connect', clientId, protocolVersion: 4, clean, keepalive }))
  const [connack] = (await once(socket, 'data')) as [Buffer]
  if (connack[0] !== 0x20 || connack[3] !== 0) throw new Error(`refused: ${connack.toString('hex')}`)
  return socket
}
