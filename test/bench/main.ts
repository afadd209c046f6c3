import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { backup } from './backup.ts'
import type { Bench, Context, Figure } from './bench.ts'
import { consumers } from './consumers.ts'
import { history } from './history.ts'
import { ingest } from './ingest.ts'
import { latency } from './latency.ts'
import { live } from './live.ts'
import { memory } from './memory.ts'
import { modes } from './modes.ts'
import { mosquittoProgram } from './mosquitto.ts'
import { busyCores } from './proc.ts'
import { formatMissed, formatTable, toJson } from './report.ts'
import { size } from './size.ts'
import { start } from './start.ts'

const benches: readonly Bench[] = [ingest, latency, size, history, live, modes, consumers, backup, memory, start]

const help = `Measures the hub, side by side with others where they are installed.

Usage: npm run bench -- [options]

  --only NAMES      comma list of topics (all of them)
  --seconds N       length of one measurement (3)
  --rounds N        rounds, of which the median counts (3)
  --points N        points on disk for the topic start, such as 10M or 100M (10M)
  --full            every QoS at every number of connections
  --profile FOLDER  write CPU profiles of the hub there; figures are lower meanwhile
  --json            one JSON document on standard output instead of tables

Topics:
${benches.map(({ name, description }) => `  ${name.padEnd(9)} ${description}`).join('\n')}`

interface Options {
  context: Context
  chosen: readonly Bench[]
  json: boolean
}

function readOptions(args: string[]): Options | null {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      only: { type: 'string', default: benches.map(({ name }) => name).join(',') },
      seconds: { type: 'string', default: '3' },
      rounds: { type: 'string', default: '3' },
      points: { type: 'string', default: '10M' },
      full: { type: 'boolean', default: false },
      profile: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  })
  if (values.help) return null
  const chosen = values.only.split(',').map((name) => {
    const bench = benches.find((candidate) => candidate.name === name)
    if (!bench) throw new Error(`unknown topic "${name}": choose some of ${benches.map((one) => one.name).join(', ')}`)
    return bench
  })
  const context: Context = {
    seconds: readNumber('--seconds', values.seconds),
    rounds: Math.ceil(readNumber('--rounds', values.rounds)),
    points: readNumber('--points', values.points),
    full: values.full,
    profiles: values.profile ?? null,
    progress: (text) => void process.stderr.write(`  ${text}\n`),
  }
  return { context, chosen, json: values.json }
}

function readNumber(name: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kM]?)$/.exec(text)
  const value = Number(match?.[1]) * { '': 1, k: 1e3, M: 1e6 }[match?.[2] as '' | 'k' | 'M']
  if (!(value > 0)) throw new Error(`${name} is "${text}": expected a number above 0, such as 3 or 10M`)
  return value
}

interface Result {
  bench: Bench
  figures: Figure[]
  /** Cores that were busy before or after, with nothing of ours running. */
  busy: number
}

const idleCheckMillis = 1000
/** Of all cores: so much of a machine is always doing something. */
const idleShare = 0.05

async function main(args: string[]): Promise<void> {
  const options = readOptions(args)
  if (!options) return console.log(help)
  const { context, chosen, json } = options
  const machine = { node: process.version, cpu: cpus()[0]?.model ?? '', cores: cpus().length, memoryBytes: totalmem() }
  if (mosquittoProgram === null) context.progress('Mosquitto is not installed: what is compared with it is left out')
  const results: Result[] = []
  for (const bench of chosen) {
    context.progress(`${bench.name}: ${bench.description}`)
    const busyBefore = await busyCores(idleCheckMillis)
    const figures = await bench.run(context)
    const busy = Math.max(busyBefore, await busyCores(idleCheckMillis))
    results.push({ bench, figures, busy })
    if (!json) console.log(`\n${formatTable(bench, figures)}`)
    if (!json && busy > machine.cores * idleShare) {
      console.log(
        `Besides, ${busy.toFixed(1)} of ${machine.cores} cores were busy: only the ratios of ${bench.name} count.\n`,
      )
    }
  }
  if (!json) return console.log(formatMissed(results))
  const { seconds, rounds, points, full } = context
  const settings = { seconds, rounds, points, full, mosquitto: mosquittoProgram !== null }
  console.log(
    JSON.stringify({ date: new Date().toISOString(), machine, settings, benches: results.map(toJson) }, null, 2),
  )
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (error: Error) => {
    console.error(`bench: ${error.message}`)
    if (!/^(unknown|--|Unknown)/.test(error.message)) console.error(error.stack)
    process.exit(1)
  },
)
