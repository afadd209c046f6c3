import { statSync } from 'node:fs'
import { join } from 'node:path'
import { type Bench, type Context, type Figure, figure, type Target } from './bench.ts'
import { fillStore, type Series } from './fill.ts'
import { createFolder, removeFolder } from './folders.ts'
import { startHub } from './hub-process.ts'
import { formatNumber } from './report.ts'

const targets = {
  ready: { first: 2, later: 1, better: 'less', note: 'the target is meant for 100 million points' },
} satisfies Record<string, Target>

const devices = 1000
const metrics = 3
const intervalMillis = 10_000

async function run({ rounds, points, progress }: Context): Promise<Figure[]> {
  const data = createFolder('start')
  try {
    const empty: number[] = []
    const full: number[] = []
    const filled = await fillStore(
      data,
      Array.from({ length: devices }, (_, index) => device(index)),
      Math.ceil(points / devices / metrics),
    )
    const megabytes = statSync(join(data, 'hub.db')).size / 1024 / 1024
    progress(`filled ${filled.values} points in ${filled.seconds.toFixed(1)} s: ${megabytes.toFixed(0)} MB`)
    for (let round = 1; round <= rounds; round++) {
      empty.push(await readySeconds())
      full.push(await readySeconds(data))
      progress(`round ${round}: ${empty.at(-1)?.toFixed(2)} s empty, ${full.at(-1)?.toFixed(2)} s full`)
    }
    const label = `with ${formatNumber(filled.values / 1e6)} million points on disk`
    return [figure('without data', 's', empty), figure(label, 's', full, targets.ready)]
  } finally {
    removeFolder(data)
  }
}

async function readySeconds(data?: string): Promise<number> {
  const hub = await startHub(data === undefined ? {} : { data })
  await hub.stop()
  return hub.readyMillis / 1000
}

function device(number: number): Series {
  const first = Date.now() - 30 * 24 * 3_600_000
  return {
    device: `machine-${number}`,
    reading: (index) => ({
      ts: first + index * intervalMillis,
      values: {
        temperature: Math.round(2000 + 300 * Math.sin(index / 900 + number)) / 100,
        humidity: 40 + ((index * 31 + number) % 17),
        power: 100 + ((index * 7919 + number * 13) % 800),
      },
    }),
  }
}

export const start: Bench = {
  name: 'start',
  description: 'from the start of the process until it is ready',
  targets,
  run,
}
