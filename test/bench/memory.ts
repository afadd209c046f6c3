import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, type Context, type Figure, figure, type Target } from './bench.ts'
import { startHub } from './hub-process.ts'
import { runLoad, startLoad } from './loading.ts'
import { maxOpenFiles, residentBytes } from './proc.ts'

const targets = {
  rest: { first: 120, later: 90, better: 'less' },
  connection: { first: 25, later: 12, better: 'less' },
  growth: {
    first: 10,
    later: 5,
    better: 'less',
    note: 'no growth is wanted; so much is the noise of a heap that is collected when it likes',
  },
} satisfies Record<string, Target>

const idleConnections = 10_000
/** Sockets and files that the processes need besides. */
const otherFiles = 200
const readings = 1_000_000
const megabyte = 1024 * 1024
/** Until the heap has given back what the work before has left. */
const settleMillis = 3000

async function run(context: Context): Promise<Figure[]> {
  const connections = Math.min(idleConnections, maxOpenFiles() - otherFiles)
  const rest: number[] = []
  const idle: number[] = []
  const growth: number[] = []
  const loaded: number[] = []
  // Memory is hardly disturbed by what else runs, and a round is long: one is enough for the load.
  for (let round = 1; round <= context.rounds; round++) {
    const hub = await startHub()
    await sleep(settleMillis)
    const before = residentBytes(hub.pid)
    rest.push(before / megabyte)
    const load = startLoad({ mode: 'idle', port: hub.mqttPort, connections })
    await load.receive('connected')
    await sleep(settleMillis)
    idle.push((residentBytes(hub.pid) - before) / 1024 / connections)
    load.send({})
    await hub.stop()
    context.progress(
      `round ${round}: ${rest.at(-1)?.toFixed(0)} MB at rest, ${idle.at(-1)?.toFixed(1)} KB a connection`,
    )
  }
  const hub = await startHub()
  for (let million = 0; million < 3; million++) {
    await runLoad({ port: hub.mqttPort, messages: readings })
    await sleep(settleMillis)
    loaded.push(residentBytes(hub.pid) / megabyte)
    context.progress(`after ${million + 1}M readings: ${loaded.at(-1)?.toFixed(0)} MB`)
  }
  await hub.stop()
  // The first million fills the heads and warms the code; from then on it should stand still.
  growth.push(((loaded[2] ?? Number.NaN) - (loaded[0] ?? Number.NaN)) / 2)
  return [
    figure('at rest', 'MB', rest, targets.rest),
    figure(`an idle MQTT connection, of ${connections.toLocaleString('en-US')}`, 'KB', idle, targets.connection),
    figure('after one million readings', 'MB', loaded.slice(0, 1)),
    figure('after three million readings', 'MB', loaded.slice(2)),
    figure('growth by each further million', 'MB', growth, targets.growth),
  ]
}

export const memory: Bench = {
  name: 'memory',
  description: 'resident memory of the hub at rest, with idle connections, and after millions of readings',
  targets,
  run,
}
