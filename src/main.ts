#!/usr/bin/env -S node --max-semi-space-size=32 --no-allocation-site-pretenuring --v8-pool-size=1
/*
 * The flags above are for garbage that dies young. A larger young generation is collected less often. And V8 shall not
 * guess that objects grow old: after a first burst of messages it made each delivery in the old generation, 4 MB a second
 * at 5,000 messages/s, where it stayed until the next full collection. One thread helps with it: on two cores the usual four
 * stood in the way of those that devices wait for, and took 4 MB.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import type { Logger } from 'pino'
import { flagName, loadConfig, variableName } from './config.ts'
import { StartError } from './errors.ts'
import type { Hub } from './hub.ts'
import { createLog } from './log.ts'
import { limits, settings } from './settings.ts'
import { version } from './version.ts'
import { welcome } from './welcome.ts'

interface Command {
  run(args: string[]): Promise<void> | void
  /** Lines of --help. */
  usage: string[]
  description: string
}

// What only a command needs is loaded for it alone.
const commands: Record<string, Command> = {
  serve: { run: serve, usage: ['[serve] [settings]'], description: 'run the hub' },
  config: { run: showConfig, usage: ['config [settings]'], description: 'show every setting and where it comes from' },
  token: {
    run: async (args) => (await import('./commands/credentials.ts')).credentialCommand('token')(args),
    usage: [
      'token create --name NAME --role admin,read,write [--devices LIST] [--expires DURATION]',
      'token list | token revoke ID|NAME',
    ],
    description: 'who may use the API',
  },
  device: {
    run: async (args) => (await import('./commands/credentials.ts')).credentialCommand('device')(args),
    usage: [
      'device create DEVICE [--password-stdin | --certificate] [--devices LIST] [--expires DURATION]',
      'device list | device revoke ID|DEVICE',
    ],
    description: 'which devices may connect',
  },
  backup: {
    run: async (args) => (await import('./commands/backup.ts')).backupCommand(args),
    usage: ['backup FILE [--data FOLDER] [--force]'],
    description: 'copy the database into one file, also while the hub runs',
  },
  restore: {
    run: async (args) => (await import('./commands/backup.ts')).restoreCommand(args),
    usage: ['restore FILE [--data FOLDER] [--force]'],
    description: 'make a backup the database of a hub that does not run',
  },
  help: { run: showHelp, usage: ['--help | --version'], description: '' },
}

async function main(args: string[]): Promise<void> {
  if (args.includes('--help') || args.includes('-h')) return showHelp()
  if (args.includes('--version')) return void console.log(version)
  const [first = '', ...rest] = args
  const named = first !== '' && !first.startsWith('-')
  const command = commands[named ? first : 'serve']
  if (!command) throw new StartError(`unknown command "${first}": see telemetry-hub --help`)
  await command.run(named ? rest : args)
}

async function serve(args: string[]): Promise<void> {
  const { config } = await loadConfig(args, process.env)
  if (config.demo && config.mqttPort === 'off') throw new StartError('--demo needs a --mqtt-port for its devices')
  const log = await createLog(config.logLevel)
  // The hub goes on when nobody reads any more what it says.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  const begun = performance.now()
  const { startHub } = await import('./hub.ts')
  // A supervisor starts a whole one.
  const hub = await startHub(config, version, log, (reason) => {
    log.fatal(`${reason}: the hub ends`)
    process.exit(1)
  })
  const demo = config.demo ? await startDemo(hub) : null
  stopOnSignal(hub, demo, config.grace, log)
  const { mqttPort, mqttTlsPort, httpPort } = hub
  const ports = { ...(mqttPort !== null && { mqttPort }), ...(mqttTlsPort !== null && { mqttTlsPort }), httpPort }
  log.info(
    { ...ports, data: config.data, durability: config.durability },
    `telemetry-hub ${version} is ready after ${Math.round(performance.now() - begun)} ms`,
  )
  // On standard error, as standard output belongs to the log.
  process.stderr.write(welcome(config, hub))
}

/** Simulated devices, from the simulator that everybody uses: a process of its own, over MQTT. */
async function startDemo(hub: Hub): Promise<ChildProcess> {
  const simulator = fileURLToPath(new URL('../simulator/main.js', import.meta.url))
  const args = [
    '--broker',
    `mqtt://127.0.0.1:${hub.mqttPort}`,
    '--devices',
    '12',
    '--rate',
    '1',
    '--profile',
    'weather',
  ]
  const { access } = hub
  const token = { kind: 'token' as const, name: 'demo', roles: ['write'], devices: ['demo-*'] }
  // Not as an argument: those are for everybody on this machine to see.
  const login = access.open ? {} : { SIM_USERNAME: await access.lend(token) }
  return spawn(process.execPath, [simulator, ...args, '--device-prefix', 'demo-'], {
    env: { ...process.env, ...login },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
}

function stopOnSignal(hub: Hub, demo: ChildProcess | null, grace: number, log: Logger): void {
  let stopping = false
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) process.exit(1)
    stopping = true
    log.info(`${signal}: the hub stops`)
    demo?.kill()
    setTimeout(() => {
      console.error(`telemetry-hub: did not stop within ${grace / 1000} s; everything that was acknowledged is on disk`)
      process.exit(1)
    }, grace).unref()
    hub.close().then(
      () => {
        log.info('the hub has stopped')
        process.exit(0)
      },
      (error) => fail(error),
    )
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}

async function showConfig(args: string[]): Promise<void> {
  const { config, sources, written } = await loadConfig(args, process.env)
  const width = Math.max(...settings.map(({ key }) => key.length))
  for (const { key } of settings) console.log(`${key.padEnd(width)}  ${written[key]?.padEnd(24)}  ${sources[key]}`)
  for (const { topic, codec } of config.mappings) console.log(`mapping ${topic} → ${codec}  (${sources.mappings})`)
}

function showHelp(): void {
  const names = settings.map(({ key, value }) => `${flagName(key)}${value === '' ? '' : ` ${value}`}`)
  const width = Math.max(...names.map((name) => name.length))
  const lines = Object.values(commands)
  const usage = lines.flatMap(({ usage, description }) => [
    ...(description === '' ? [] : [`  ${description}`]),
    ...usage.map((line) => `    telemetry-hub ${line}`),
  ])
  console.log(`telemetry-hub ${version}: devices push over MQTT, everybody pulls or follows over HTTP

Usage:
${usage.join('\n')}

Who makes tokens and devices also says --data, and --publish or --subscribe LIST for further topics. A hub that runs
takes them at once; revoked, they end what they let in.

Settings, as flags, as variables such as ${variableName('mqttPort')}, or in hub.yaml such as "mqttPort: 1883":
`)
  settings.forEach((setting, index) => {
    if (setting === limits[0]) console.log('\nLimits, each with a figure in /metrics that says when it was met:\n')
    console.log(`  ${(names[index] as string).padEnd(width)}  ${setting.description} (${setting.initial})`)
  })
  console.log(`  ${'--config FILE'.padEnd(width)}  file with settings and mappings (hub.yaml, if it is there)

Durations are written 30s, 5m, 7d; sizes 512MiB, 1GiB.`)
}

function fail(error: unknown): never {
  if (error instanceof StartError) console.error(`telemetry-hub: ${error.message}`)
  else console.error(error)
  process.exit(1)
}

// The flag stays with this thread. Left standing, V8 would give threads that start later as much, whatever they ask for.
setFlagsFromString('--max-semi-space-size=0')
main(process.argv.slice(2)).catch(fail)
