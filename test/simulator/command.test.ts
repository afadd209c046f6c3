import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { Failure } from '../../simulator/failure.ts'
import { parseOptions } from '../../simulator/options.ts'
import type { Summary } from '../../simulator/report.ts'
import { simulate } from '../../simulator/simulation.ts'
import { freePort, startStandInHub, until } from './stand-in-hub.ts'

const command = fileURLToPath(new URL('../../simulator/main.js', import.meta.url))

function start(...args: string[]): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [command, ...args])
}

async function finish(child: ChildProcessWithoutNullStreams) {
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code, stdout, stderr }
}

/** Why it does not begin. */
async function failureOf(...args: string[]): Promise<Failure> {
  const failure: unknown = await simulate(parseOptions(args), {
    interrupted: new AbortController().signal,
    progress: () => {},
    progressEveryMillis: 1000,
  }).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(Failure)
  return failure as Failure
}

it('a run ends with exit code 0 and one summary on stdout', async () => {
  await using hub = await startStandInHub()
  const { code, stdout, stderr } = await finish(
    start('--broker', hub.broker, '--devices', '3', '--rate', '50', '--count', '30'),
  )
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toMatch(/acknowledged +30\n/)
  expect(stdout).toMatch(/latency +p50 .* p90 .* p99 .* p99\.9 .* max /)
})

it('--json prints the summary as one object', async () => {
  await using hub = await startStandInHub()
  const { code, stdout } = await finish(
    start('--broker', hub.broker, '--devices', '3', '--rate', '50', '--count', '30', '--verify', hub.http, '--json'),
  )
  const latency = expect.any(Number)
  expect(JSON.parse(stdout)).toEqual({
    broker: hub.broker,
    load: 'environment, steady',
    devices: 3,
    connections: 3,
    qos: 1,
    seconds: expect.any(Number),
    due: 30,
    sent: 30,
    acknowledged: 30,
    bad: 0,
    messages: 30,
    rate: expect.any(Number),
    latencyMillis: { p50: latency, p90: latency, p99: latency, p999: latency, max: latency },
    reconnects: 0,
    errors: { count: 0, last: null },
    replay: null,
    verification: {
      ...{ sent: 30, acknowledged: 30, stored: 30, missing: 0, different: 0, duplicated: 0, unexpected: 0 },
      ...{ corrected: 0, excluded: 0, ok: true, examples: [] },
    },
    failure: null,
    exitCode: 0,
  } satisfies Summary)
  expect(code).toBe(0)
})

it('a history that lacks something makes exit code 1 and a line that says so', async () => {
  await using hub = await startStandInHub()
  const child = start('--broker', hub.broker, '--devices', '1', '--rate', '50', '--count', '30', '--verify', hub.http)
  void until(() => hub.history.get('sim-1')?.length === 30).then(() => hub.history.get('sim-1')!.splice(20, 1))
  const { code, stdout } = await finish(child)
  expect(code).toBe(1)
  expect(stdout).toMatch(/missing 1/)
  expect(stdout).toMatch(/failed +the history is not/)
})

it('Ctrl-C stops sending, waits for what is in flight and sums up, exit code 0', async () => {
  await using hub = await startStandInHub()
  const child = start('--broker', hub.broker, '--devices', '3', '--rate', '50', '--verify', hub.http, '--json')
  const finished = finish(child)
  await until(() => hub.received.length > 20)
  child.kill('SIGINT')
  const { code, stdout } = await finished
  const summary = JSON.parse(stdout) as Summary
  expect(code).toBe(0)
  expect(summary.acknowledged).toBe(summary.sent)
  expect(summary.verification).toMatchObject({ ok: true, stored: summary.sent })
})

it('a second Ctrl-C does not wait, exit code 130', async () => {
  await using hub = await startStandInHub()
  let held = false
  let open = false
  hub.gate = () => {
    held = true
    return until(() => open)
  }
  const child = start('--broker', hub.broker, '--devices', '1', '--rate', '50')
  const finished = finish(child)
  await until(() => held)
  child.kill('SIGINT')
  // The second signal has to find the first one handled.
  const repeat = setInterval(() => child.kill('SIGINT'), 200)
  const { code, stdout } = await finished
  clearInterval(repeat)
  open = true
  expect([code, stdout]).toEqual([130, ''])
})

it.concurrent('a broker that cannot be reached is one line on stderr and exit code 1', async () => {
  const port = await freePort()
  const { code, stdout, stderr } = await finish(
    start('--broker', `mqtt://user:s3cret@127.0.0.1:${port}`, '--count', '1'),
  )
  expect([code, stdout]).toEqual([1, ''])
  expect(stderr).toBe(
    `telemetry-sim: no connection to mqtt://127.0.0.1:${port} (connect ECONNREFUSED 127.0.0.1:${port}): start it, or name another with --broker\n`,
  )
})

it.concurrent('a server that is no broker does not keep it for ever', async () => {
  const silent = createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as { port: number }
  const failure = await failureOf('--broker', `mqtt://127.0.0.1:${port}`, '--devices', '2', '--count', '1')
  silent.close()
  expect(failure).toMatchObject({ exitCode: 1, message: expect.stringContaining('(no answer): check --broker') })
})

it('an option that there is not is one line on stderr and exit code 2', async () => {
  const { code, stdout, stderr } = await finish(start('--devcies', '3'))
  expect([code, stdout]).toEqual([2, ''])
  expect(stderr).toBe('telemetry-sim: there is no option --devcies: see telemetry-sim --help\n')
})

it.each([
  [['--replay', '/nowhere/at-all.csv'], /^--replay cannot read .*no such file.*$/],
  [['--payload-template', '{{x}}'], /^--payload-template: there is no \{\{x\}\};.*$/],
  [['--start', 'soon'], /^--start: "soon" is no time:.*$/],
  [['--ca', '/nowhere/ca.pem'], /^--ca cannot be read: .*$/],
])('%j is one line and exit code 2', async (args, line) => {
  expect(await failureOf(...args)).toMatchObject({ exitCode: 2, message: expect.stringMatching(line) })
})

it('--help and --version print and do nothing else', async () => {
  const help = await finish(start('--help'))
  expect([help.code, help.stderr]).toEqual([0, ''])
  expect(help.stdout).toContain('Usage: telemetry-sim')
  expect((await finish(start('--version'))).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
})
