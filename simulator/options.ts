import { type ParseArgsConfig, parseArgs } from 'node:util'
import { profiles } from '../devices/profiles.ts'
import { deviceProblem, limits } from '../devices/reading.ts'
import { Failure } from './failure.ts'
import { createTimeReader } from './local-time.ts'
import { scenarios } from './scenarios.ts'

interface Option<T> {
  /** What stands for the value in --help; without it the option is a switch. */
  hint?: string
  /** In --help only, for a default that `read` makes itself. */
  otherwise?: string
  description: string
  /** Each with its description, listed in --help. */
  choices?: Record<string, { description: string }>
  /** The only kind of load for which the option means something. */
  only?: 'profile' | 'replay'
  /** Read where the option is not given: a secret in the arguments is for everybody on the machine to see. */
  variable?: string
  /** Throws an Error that says what would be right. Gets undefined where the option is not given. */
  read(text: string | undefined): T
}

/** All options: parsing, checking and --help are made from this table. */
const table = {
  broker: option('URL', 'mqtt://127.0.0.1:1883', 'the hub: mqtt://, mqtts://, ws:// or wss://', brokerUrl),
  username: {
    ...optional('NAME', 'user for MQTT; {{device}} stands for the name of the device', text),
    variable: 'SIM_USERNAME',
  },
  password: { ...optional('TEXT', 'password for MQTT; {{device}} as well', text), variable: 'SIM_PASSWORD' },
  ca: optional('FILE', 'certificate authority of the broker, PEM', text),
  devices: { ...option('N', '100', 'how many devices', integer(1, 1_000_000)), only: 'profile' },
  rate: { ...option('R', '1', 'readings a second and device', positive), only: 'profile' },
  'total-rate': {
    ...optional('R', 'readings a second of all devices together, instead of --rate', positive),
    only: 'profile',
  },
  duration: {
    ...optional('TIME', 'how long readings fall due, e.g. 60s; without it and --count: until Ctrl-C', duration),
    only: 'profile',
  },
  count: optional('N', 'readings in all', integer(1, Number.MAX_SAFE_INTEGER)),
  qos: option('0|1|2', '1', 'quality of service', oneOf(['0', '1', '2'])),
  inflight: option('N', '20', 'messages without acknowledgement on one connection', integer(1, 10_000)),
  connections: {
    ...optional('N', 'connections that the devices share', integer(1, 100_000)),
    otherwise: 'one a device; in a replay 1',
  },
  ramp: { ...optional('TIME', 'over which time the connections open', duration), otherwise: '1ms a connection' },
  profile: { ...choice('environment', 'what the devices measure', profiles), only: 'profile' },
  scenario: choice('steady', 'what happens to the readings and the connections', scenarios),
  period: option('TIME', '10s', 'of bursts and reconnect storms', duration),
  'payload-template': optional(
    'TEXT',
    'one reading as the device writes it, with {{device}}, {{ts}}, {{seq}} and {{metric}}',
    text,
  ),
  batch: option('N', '1', 'readings in one message', integer(1, limits.maxReadings)),
  seed: {
    ...option('N', '42', 'the same seed and --start make the same readings', integer(0, 0xffff_ffff)),
    only: 'profile',
  },
  'device-prefix': { ...option('TEXT', 'sim-', 'devices are named sim-1, sim-2, …', devicePrefix), only: 'profile' },
  start: {
    ...optional('TIME', 'time of the first reading, e.g. 2026-01-31T13:00:00Z', text),
    otherwise: 'now',
    only: 'profile',
  },
  replay: optional('FILE', 'send the rows of a CSV file; every other column is a metric', text),
  'time-column': { ...option('NAME', 'date', 'column with the time: ISO 8601 or milliseconds', text), only: 'replay' },
  'device-column': { ...optional('NAME', 'column with the name of the device', text), only: 'replay' },
  device: { ...optional('NAME', 'device of all rows', deviceName), otherwise: 'the name of the file', only: 'replay' },
  speed: { ...option('1x|3600x|max', 'max', 'how much faster than recorded', speed), only: 'replay' },
  'time-zone': option('NAME', 'UTC', 'zone of times without one, e.g. Europe/Berlin', timeZone),
  verify: optional(
    'URL',
    "afterwards read the hub's history over HTTP and compare, e.g. http://127.0.0.1:8080",
    httpUrl,
  ),
  token: { ...optional('TEXT', 'bearer token for --verify', text), variable: 'SIM_TOKEN' },
  json: flag('print the summary as JSON'),
  help: flag('print this'),
  version: flag('print the version'),
} satisfies Record<string, Option<unknown>>

type Table = typeof table
export type Options = { [Name in keyof Table]: ReturnType<Table[Name]['read']> }

/** The options as checked values, or a Failure that says in one line what to write instead. */
export function parseOptions(args: string[], environment: NodeJS.ProcessEnv = {}): Options {
  const given = split(args)
  const mode = given.replay === undefined ? 'profile' : 'replay'
  const options: Record<string, unknown> = {}
  for (const [name, row] of Object.entries<Option<unknown>>(table)) {
    if (given[name] !== undefined && row.only !== undefined && row.only !== mode) {
      throw new Failure(2, `--${name} means nothing ${mode === 'replay' ? 'with' : 'without'} --replay: leave it out`)
    }
    try {
      options[name] = row.read(given[name] ?? environment[row.variable ?? ''])
    } catch (error) {
      throw new Failure(2, `--${name} ${given[name]}: ${(error as Error).message}`, error)
    }
  }
  const checked = options as Options
  const problem = rules.find(([broken]) => broken(checked, given))?.[1]
  if (problem) throw new Failure(2, problem)
  return checked
}

const rules: [(options: Options, given: Record<string, string | undefined>) => boolean, string][] = [
  [(_, given) => Boolean(given.rate && given['total-rate']), '--rate and --total-rate contradict each other: give one'],
  [
    (_, given) => Boolean(given.device && given['device-column']),
    '--device and --device-column contradict each other: give one',
  ],
  [(options, given) => given.token !== undefined && options.verify === undefined, '--token is for --verify: give both'],
  [
    (options) => options.replay !== undefined && !['steady', 'reconnect-storm'].includes(options.scenario),
    '--replay sends a file as it is: with it --scenario can only be steady or reconnect-storm',
  ],
  [
    (options) => options.replay === undefined && (options.connections ?? 0) > options.devices,
    '--connections is more than --devices: give at most one a device',
  ],
  [(options) => options.period < 1, '--period must be at least 1ms'],
]

/** The texts of the options as given; switches as "true". */
function split(args: string[]): Record<string, string | undefined> {
  const config: ParseArgsConfig['options'] = {}
  for (const [name, row] of Object.entries<Option<unknown>>(table)) {
    config[name] = { type: row.hint === undefined ? 'boolean' : 'string' }
  }
  try {
    const { values } = parseArgs({ args, options: config })
    return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]))
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    const named = /'(?:-\w, )?(-[^' ]*)/.exec(message)?.[1] ?? ''
    if (code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION') {
      throw new Failure(2, `there is no option ${named}: see telemetry-sim --help`, error)
    }
    if (code === 'ERR_PARSE_ARGS_UNEXPECTED_POSITIONAL') {
      const argument = /'(.*?)'/.exec(message)?.[1]
      throw new Failure(2, `"${argument}" belongs to no option: see telemetry-sim --help`, error)
    }
    const row = (table as Record<string, Option<unknown>>)[named.slice(2)]
    throw new Failure(2, row?.hint ? `${named} needs a value: ${named} ${row.hint}` : `${named} takes no value`, error)
  }
}

export function helpText(): string {
  const rows = Object.entries<Option<unknown>>(table).flatMap(([name, row]) => [
    {
      left: `  --${name}${row.hint ? ` ${row.hint}` : ''}`,
      right:
        row.description +
        (row.otherwise ? ` (default: ${row.otherwise})` : '') +
        (row.variable ? ` (or ${row.variable}, unseen by others)` : ''),
    },
    ...Object.entries(row.choices ?? {}).map(([each, { description }]) => ({
      left: '',
      right: `  ${each.padEnd(16)} ${description}`,
    })),
  ])
  const width = Math.max(...rows.map(({ left }) => left.length)) + 2
  const lines = rows.map(({ left, right }) => left.padEnd(width) + right)
  return `telemetry-sim: devices that push telemetry over MQTT, at a given rate or from a file

Usage: telemetry-sim [options]

${lines.join('\n')}

A TIME that lasts is written 500ms, 60s, 10m, 1h or 2d.
Exit codes: 0 well, 1 not reached, not acknowledged or not verified, 2 a wrong option, 130 stopped twice.
`
}

function option<T>(hint: string, standard: string, description: string, read: (text: string) => T) {
  return { hint, otherwise: standard, description, read: (given: string | undefined) => read(given ?? standard) }
}

function choice(standard: string, description: string, choices: Record<string, { description: string }>) {
  return { ...option('NAME', standard, description, oneOf(Object.keys(choices))), choices }
}

function optional<T>(hint: string, description: string, read: (text: string) => T) {
  return { hint, description, read: (given: string | undefined) => (given === undefined ? undefined : read(given)) }
}

function flag(description: string) {
  return { description, read: (given: string | undefined) => given !== undefined }
}

function text(given: string): string {
  if (given === '') throw new Error('must not be empty')
  return given
}

function integer(least: number, most: number) {
  return (given: string) => {
    const value = /^\d+$/.test(given) ? Number(given) : Number.NaN
    if (value >= least && value <= most) return value
    throw new Error(`write a whole number from ${least}${most < Number.MAX_SAFE_INTEGER ? ` to ${most}` : ''}`)
  }
}

function positive(given: string): number {
  const value = /^\d*\.?\d+$/.test(given) ? Number(given) : 0
  if (value > 0) return value
  throw new Error('write a number above 0, e.g. 10 or 0.5')
}

const unitMillis: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

function duration(given: string): number {
  const [, amount, unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(given) ?? []
  if (amount !== undefined) return Number(amount) * unitMillis[unit]!
  throw new Error('write a number and its unit: 500ms, 60s, 10m, 1h or 2d')
}

function speed(given: string): number {
  if (given === 'max') return Infinity
  const factor = Number(/^(\d+(?:\.\d+)?)x$/.exec(given)?.[1])
  if (factor > 0) return factor
  throw new Error('write a factor such as 1x or 3600x, or max')
}

function oneOf(names: string[]) {
  return (given: string) => {
    if (names.includes(given)) return given
    throw new Error(`choose one of ${names.join(', ')}`)
  }
}

function brokerUrl(given: string): string {
  if (URL.canParse(given) && /^(mqtts?|wss?):$/.test(new URL(given).protocol) && new URL(given).hostname) return given
  throw new Error('write a URL such as mqtt://127.0.0.1:1883, mqtts://…, ws://127.0.0.1:8080/mqtt or wss://…')
}

function httpUrl(given: string): string {
  if (URL.canParse(given) && /^https?:$/.test(new URL(given).protocol)) return given
  throw new Error('write a URL such as http://127.0.0.1:8080')
}

function timeZone(given: string): string {
  try {
    createTimeReader(given)
    return given
  } catch {
    throw new Error('write the name of a time zone such as Europe/Berlin, or UTC')
  }
}

function deviceName(given: string): string {
  const problem = deviceProblem(given)
  if (problem) throw new Error(problem)
  return given
}

function devicePrefix(given: string): string {
  deviceName(`${given}1000000`)
  return given
}
