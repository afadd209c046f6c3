import { expect, it } from 'vitest'
import { Failure } from '../../simulator/failure.ts'
import { helpText, parseOptions } from '../../simulator/options.ts'

function problemOf(...args: string[]): string {
  try {
    parseOptions(args)
  } catch (error) {
    expect(error).toBeInstanceOf(Failure)
    expect((error as Failure).exitCode).toBe(2)
    expect((error as Failure).message).not.toContain('\n')
    return (error as Failure).message
  }
  return 'no problem'
}

it('secrets may come as variables, and an option that is given counts more', () => {
  const variables = { SIM_USERNAME: 'hub_x', SIM_PASSWORD: 'p', SIM_TOKEN: 't', SIM_RATE: '7' }
  expect(parseOptions(['--password', 'q'], variables)).toMatchObject({
    username: 'hub_x',
    password: 'q',
    token: 't',
    rate: 1,
  })
})

it('without options there is a load of 100 devices and one reading a second', () => {
  const options = parseOptions([])
  expect(options).toMatchObject({
    broker: 'mqtt://127.0.0.1:1883',
    devices: 100,
    rate: 1,
    qos: '1',
    inflight: 20,
    seed: 42,
  })
  expect(options).toMatchObject({ scenario: 'steady', json: false, speed: Infinity, batch: 1 })
  expect([options.duration, options.count, options.verify, options.replay]).toEqual([
    undefined,
    undefined,
    undefined,
    undefined,
  ])
})

it('durations and speeds are read with their units', () => {
  expect(parseOptions(['--duration', '1.5m', '--ramp', '500ms'])).toMatchObject({ duration: 90_000, ramp: 500 })
  expect(parseOptions(['--replay', 'a.csv', '--speed', '3600x'])).toMatchObject({ speed: 3600 })
})

it.each([
  [['--devcies', '4'], 'there is no option --devcies: see telemetry-sim --help'],
  [['100'], '"100" belongs to no option: see telemetry-sim --help'],
  [['--devices'], '--devices needs a value: --devices N'],
  [['--json=yes'], '--json takes no value'],
  [['--devices', '0'], '--devices 0: write a whole number from 1 to 1000000'],
  [['--rate', 'fast'], '--rate fast: write a number above 0, e.g. 10 or 0.5'],
  [['--duration', '60'], '--duration 60: write a number and its unit: 500ms, 60s, 10m, 1h or 2d'],
  [['--qos', '3'], '--qos 3: choose one of 0, 1, 2'],
  [['--profile', 'toaster'], '--profile toaster: choose one of environment, smart-meter, weather, vehicle, machine'],
  [['--broker', 'localhost:1883'], '--broker localhost:1883: write a URL such as mqtt://127.0.0.1:1883'],
  [['--verify', 'here'], '--verify here: write a URL such as http://127.0.0.1:8080'],
  [['--time-zone', 'Moon/Base'], '--time-zone Moon/Base: write the name of a time zone'],
  [['--device-prefix', 'a/b'], '--device-prefix a/b: a device id must not hold'],
  [['--rate', '1', '--total-rate', '5'], '--rate and --total-rate contradict each other'],
  [['--devices', '2', '--connections', '3'], '--connections is more than --devices'],
  [['--speed', 'max'], '--speed means nothing without --replay: leave it out'],
  [['--replay', 'a.csv', '--rate', '1'], '--rate means nothing with --replay: leave it out'],
  [['--replay', 'a.csv', '--scenario', 'burst'], '--replay sends a file as it is'],
  [['--replay', 'a.csv', '--speed', '0x'], '--speed 0x: write a factor such as 1x or 3600x, or max'],
  [['--token', 'x'], '--token is for --verify: give both'],
])('%j is answered with what to do', (args, answer) => {
  expect(problemOf(...args)).toContain(answer)
})

it('the help names every option with its default, and every profile and scenario', () => {
  const help = helpText()
  for (const name of Object.keys(parseOptions([]))) expect(help).toContain(`--${name}`)
  expect(help).toContain('(default: mqtt://127.0.0.1:1883)')
  for (const name of ['smart-meter', 'vehicle', 'reconnect-storm', 'schema-drift']) expect(help).toContain(name)
  expect(Math.max(...help.split('\n').map((line) => line.length))).toBeLessThan(140)
})
