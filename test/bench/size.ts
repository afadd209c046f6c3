import { statSync } from 'node:fs'
import { join } from 'node:path'
import { deviceSeed, profiles } from '../../devices/profiles.ts'
import { decodeBlock, encodeBlock, readDirectory } from '../../src/store/block.ts'
import type { Rows } from '../../src/store/columns.ts'
import { openDatabase } from '../../src/store/sqlite/database.ts'
import { type Bench, type Context, type Figure, figure, type Target } from './bench.ts'
import { now } from './clock.ts'
import { fillStore, type Series } from './fill.ts'
import { createFolder, removeFolder } from './folders.ts'

const targets = {
  bytes: { first: 1.5, later: 0.44, better: 'less', note: 'the second one is what VictoriaMetrics needs' },
} satisfies Record<string, Target>

const devicesOfEachKind = 50
const readingsPerDevice = 20_000
/** A meter tells what it draws every ten seconds, a weather station every minute. */
const kinds = [
  { name: 'smart-meter', intervalMillis: 10_000 },
  { name: 'weather', intervalMillis: 60_000 },
]
const firstTs = Date.UTC(2026, 0, 1)

interface Block {
  name: string
  directory: Buffer
  data: Buffer
}

async function run({ progress, seconds }: Context): Promise<Figure[]> {
  const folder = createFolder('size')
  try {
    const filled = await fillStore(folder, kinds.flatMap(devicesOf), readingsPerDevice)
    progress(`filled ${filled.values} points in ${filled.seconds.toFixed(1)} s`)
    return [
      figure('taken in through the writer', 'points/s', [filled.values / filled.seconds]),
      ...measureFile(folder, filled.values, seconds),
    ]
  } finally {
    removeFolder(folder)
  }
}

// Everything is a function of the seed, so every run stores the same bytes.
function devicesOf({ name, intervalMillis }: (typeof kinds)[number]): Series[] {
  const profile = profiles[name]
  if (!profile) throw new Error(`BUG: there is no profile ${name}`)
  return Array.from({ length: devicesOfEachKind }, (_, device) => {
    const seed = deviceSeed(42, device)
    return {
      device: `${name}-${device}`,
      reading: (index) => {
        const ts = firstTs + index * intervalMillis
        return { ts, values: profile.sample(seed, ts, index) }
      },
    }
  })
}

function measureFile(folder: string, values: number, seconds: number): Figure[] {
  const db = openDatabase(join(folder, 'hub.db'))
  const blocks = db
    .prepare<[], Block>('SELECT name, directory, data FROM blocks JOIN devices ON devices.id = blocks.device')
    .all()
  const logBytes = db.prepare<[], number>('SELECT sum(length(data)) FROM log').pluck().get() as number
  const copy = join(folder, 'sealed.db')
  db.exec(`VACUUM INTO '${copy}'`)
  db.close()
  const figures = kinds.map(({ name }) => {
    const own = blocks.filter((block) => block.name.startsWith(name))
    return figure(`blocks, ${name}`, 'bytes/point', [bytesOf(own) / pointsOf(own)])
  })
  return [
    ...figures,
    figure('blocks, both', 'bytes/point', [bytesOf(blocks) / pointsOf(blocks)]),
    figure('file without the log, both', 'bytes/point', [withoutLog(copy) / pointsOf(blocks)], targets.bytes),
    figure('log', 'bytes/point', [logBytes / values]),
    ...measureCodec(blocks, seconds),
  ]
}

function bytesOf(blocks: readonly Block[]): number {
  return blocks.reduce((sum, { directory, data }) => sum + directory.length + data.length, 0)
}

function pointsOf(blocks: readonly Block[]): number {
  return blocks.reduce((sum, { directory }) => {
    return sum + readDirectory(directory).columns.reduce((points, { count }) => points + count, 0)
  }, 0)
}

/** What the file takes with the log forgotten: pages and indexes included. */
function withoutLog(copy: string): number {
  const db = openDatabase(copy)
  db.exec('DELETE FROM log; VACUUM')
  db.close()
  return statSync(copy).size
}

function measureCodec(blocks: readonly Block[], seconds: number): Figure[] {
  const some = blocks.filter((_, index) => index % Math.ceil(blocks.length / 40) === 0)
  const decoded = some.map(({ directory, data }): Rows => decodeBlock(readDirectory(directory), data))
  const points = pointsOf(some)
  const speed = (work: () => void): number => {
    work()
    const begun = now()
    let passes = 0
    do {
      work()
      passes++
    } while (now() - begun < seconds * 500)
    return (points * passes * 1000) / (now() - begun)
  }
  return [
    figure('block codec, encode', 'points/s', [speed(() => void decoded.map(encodeBlock))]),
    figure('block codec, decode', 'points/s', [
      speed(() => void some.map(({ directory, data }) => decodeBlock(readDirectory(directory), data))),
    ]),
  ]
}

export const size: Bench = {
  name: 'size',
  description: 'bytes on disk of a smart meter and weather mix, and the speed of the codec',
  targets,
  run,
}
