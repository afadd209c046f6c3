import { statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Bench, type Context, type Figure, figure, ratios, type Target } from './bench.ts'
import { startProcess } from './children.ts'
import { now } from './clock.ts'
import { createFolder, removeFolder } from './folders.ts'
import { startHub } from './hub-process.ts'
import { runLoad } from './loading.ts'
import type { Spread } from './statistics.ts'

const targets = {
  p50: { first: 3, later: 2, better: 'less' },
  p99: { first: 10, later: 5, better: 'less' },
} satisfies Record<string, Target>

const storedReadings = 4_000_000
const devices = 1000
const rate = 5000
const program = fileURLToPath(new URL('../../src/main.js', import.meta.url))

interface Measured {
  alone: Spread
  busy: Spread
  backups: number
  seconds: number
  megabytes: number
  /** The largest WAL that was seen. */
  walMegabytes: number
}

async function run(context: Context): Promise<Figure[]> {
  const folder = createFolder('backup')
  const data = join(folder, 'data')
  const hub = await startHub({ data, profiles: context.profiles })
  const load = { mode: 'open' as const, port: hub.mqttPort, pids: [hub.pid], devices, rate, seconds: context.seconds }
  await runLoad({ port: hub.mqttPort, devices, messages: storedReadings })
  const rounds: Measured[] = []
  for (let round = 1; round <= context.rounds; round++) {
    const { latency: alone } = await runLoad(load)
    const loop = startBackups(data, join(folder, 'hub.backup'))
    const { latency: busy } = await runLoad(load)
    const made = await loop.stop()
    if (!alone || !busy) throw new Error('BUG: an open loop without latencies')
    rounds.push({ alone, busy, ...made })
    const show = ({ p50, p99, max }: Spread): string => `${p50.toFixed(2)} / ${p99.toFixed(2)} / ${max.toFixed(2)} ms`
    context.progress(`round ${round}: alone ${show(alone)}, beside ${made.backups} backups ${show(busy)}`)
  }
  await hub.stop()
  removeFolder(folder)
  const of = (kind: 'alone' | 'busy', part: 'p50' | 'p99' | 'max'): number[] => rounds.map((round) => round[kind][part])
  const table = (label: string, kind: 'alone' | 'busy'): Figure[] =>
    (['p50', 'p99', 'max'] as const).map((part) => figure(`${label}: ${part}`, 'ms', of(kind, part)))
  return [
    ...table('5,000/s', 'alone'),
    ...table('5,000/s, one backup after another', 'busy'),
    figure('p50 beside backups against alone', '×', ratios(of('busy', 'p50'), of('alone', 'p50')), targets.p50),
    figure('p99 beside backups against alone', '×', ratios(of('busy', 'p99'), of('alone', 'p99')), targets.p99),
    ...(['seconds', 'megabytes'] as const).map((of) =>
      figure(
        `one backup: ${of}`,
        of === 'seconds' ? 's' : 'MB',
        rounds.map((round) => round[of]),
      ),
    ),
    figure(
      'WAL meanwhile: at most',
      'MB',
      rounds.map(({ walMegabytes }) => walMegabytes),
    ),
  ]
}

const lookMillis = 50

/** The command as people run it, again and again. */
function startBackups(data: string, file: string) {
  let stopped = false
  let backups = 0
  let walBytes = 0
  const begun = now()
  const timer = setInterval(() => {
    walBytes = Math.max(walBytes, statSync(join(data, 'hub.db-wal'), { throwIfNoEntry: false })?.size ?? 0)
  }, lookMillis)

  async function loop(): Promise<number> {
    while (!stopped) {
      const child = startProcess(process.execPath, [program, 'backup', file, '--data', data, '--force'], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      const code = await new Promise((resolve) => child.once('exit', resolve))
      if (code !== 0) throw new Error(`a backup has ended with ${code}`)
      backups++
    }
    return (now() - begun) / 1000 / backups
  }

  const running = loop()
  return {
    async stop() {
      stopped = true
      const seconds = await running
      clearInterval(timer)
      return { backups, seconds, megabytes: statSync(file).size / 1e6, walMegabytes: walBytes / 1e6 }
    },
  }
}

export const backup: Bench = {
  name: 'backup',
  description: 'acknowledgements, 100 connections at QoS 1, while the database is backed up again and again',
  targets,
  run,
}
