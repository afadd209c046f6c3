import { describe, expect, test } from 'vitest'
import { type CodecName, codecs } from '../../devices/codecs.ts'
import type { Decoded } from '../../devices/reading.ts'
import { defaultWindow, parseRfc3339, readTime } from '../../devices/time.ts'
import { createRouter, mappingProblem } from '../../devices/topics.ts'

const now = Date.UTC(2025, 5, 1)
const ts = Date.UTC(2024, 10, 23, 16)

function decode(codec: CodecName, text: string, metric: string | null = null): Decoded {
  return codecs[codec](text, { device: 'd', metric, now, window: defaultWindow })
}

/** The readings as plain objects. */
function read(codec: CodecName, text: string, metric: string | null = null) {
  const { readings, rejected } = decode(codec, text, metric)
  expect(rejected).toEqual([])
  return readings.map((reading) => ({
    ...(reading.device === 'd' ? {} : { device: reading.device }),
    ts: reading.ts,
    values: Object.fromEntries(reading.metrics.map((name, i) => [name, reading.values[i]])),
  }))
}

function reason(codec: CodecName, text: string, metric: string | null = null): string | undefined {
  const { readings, rejected } = decode(codec, text, metric)
  expect(readings).toEqual([])
  return rejected[0]?.reason
}

describe('JSON telemetry', () => {
  test('takes all three shapes, and arrays of them', () => {
    const values = { temperature: 21.5, 'door.open': false }
    expect(read('json', '{"temperature":21.5,"door":{"open":false}}')).toEqual([{ ts: null, values }])
    expect(read('json', `{"ts":${ts},"temperature":21.5,"door":{"open":false}}`)).toEqual([{ ts, values }])
    expect(read('json', `{"ts":${ts},"values":{"temperature":21.5,"door":{"open":false}}}`)).toEqual([{ ts, values }])
    expect(read('json', `[{"ts":${ts},"a":1},{"ts":"2024-11-23T17:00:00+01:00","values":{"a":2}},{"a":3}]`)).toEqual([
      { ts, values: { a: 1 } },
      { ts, values: { a: 2 } },
      { ts: null, values: { a: 3 } },
    ])
  })

  test('a byte order mark is passed over', () => {
    expect(read('json', '\ufeff{"a":1}')).toEqual([{ ts: null, values: { a: 1 } }])
    expect(read('scalar', '\ufeff1', 'm')).toEqual([{ ts: null, values: { m: 1 } }])
  })

  test('flattens objects, keeps arrays as JSON text, leaves null out', () => {
    expect(read('json', '{"a":{"b":{"c":1}},"list":[1,{"x":2}],"none":null,"t":"ö"}')).toEqual([
      { ts: null, values: { 'a.b.c': 1, list: '[1,{"x":2}]', t: 'ö' } },
    ])
    expect(read('json', '{"a.b":1,"a":{"b":2}}')).toEqual([{ ts: null, values: { 'a.b': 2 } }])
  })

  test('a metric may be called "values" when it is no wrapper', () => {
    expect(read('json', '{"values":{"x":1},"other":2}')).toEqual([{ ts: null, values: { 'values.x': 1, other: 2 } }])
    expect(read('json', '{"values":7}')).toEqual([{ ts: null, values: { values: 7 } }])
  })

  test('keeps the good items of an array, and says which are bad and why', () => {
    const { readings, rejected } = decode('json', '[{"a":1},{"ts":1732377600,"a":2},7,{"a":3}]')
    expect(readings.map(({ values }) => values)).toEqual([[1], [3]])
    expect(rejected).toMatchObject([
      { item: 2, payload: '{"ts":1732377600,"a":2}' },
      { item: 3, payload: '7' },
    ])
  })

  for (const [text, expected] of [
    ['{"a":', /not valid JSON/],
    ['', /empty/],
    ['{}', /no value/],
    ['[]', /no reading/],
    ['{"a":null}', /no value/],
    ['7', /JSON object/],
    ['{"ts":1732377600,"a":1}', /seconds, not milliseconds/],
    ['{"ts":1732377600000000,"a":1}', /microseconds, not milliseconds/],
    ['{"ts":1732377600000000000,"a":1}', /nanoseconds, not milliseconds/],
    [`{"ts":${now + 25 * 3_600_000},"a":1}`, /24 h in the future/],
    ['{"ts":12345,"a":1}', /2000-01-01/],
    [`{"ts":${ts}.5,"a":1}`, /no fraction/],
    ['{"ts":"yesterday","a":1}', /RFC 3339/],
    ['{"ts":"2024-11-23T16:00:00","a":1}', /RFC 3339 with its zone/],
    ['{"ts":true,"a":1}', /integer milliseconds or an RFC 3339 text/],
    ['{"a":1e999}', /too large/],
    [`{"a":"${'x'.repeat(4097)}"}`, /longer than 4096 bytes/],
    [`{"a":"${'ö'.repeat(2049)}"}`, /longer than 4096 bytes/],
    [`{"${'n'.repeat(129)}":1}`, /longer than 128 characters/],
    ['{"":1}', /empty/],
    ['{"a\\u0007":1}', /control characters/],
    ['{"__proto__":1}', /__proto__/],
    ['{"a":"\\ud800"}', /not valid Unicode/],
    [`${'{"a":'.repeat(20)}1${'}'.repeat(20)}`, /nested/],
    [JSON.stringify(Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [`m${i}`, i]))), /at most 1024 values/],
  ] as const) {
    test(`refuses ${text.slice(0, 40)} and says why`, () => {
      expect(reason('json', text)).toMatch(expected)
    })
  }
})

describe('bare scalars', () => {
  test('are numbers, booleans, or the text as it stands', () => {
    for (const [text, value] of [
      ['21.5', 21.5],
      ['-3e2', -300],
      [' 7\n', 7],
      ['true', true],
      ['false', false],
      ['open', 'open'],
      ['"open"', 'open'],
      ['0x10', '0x10'],
      ['1_000', '1_000'],
      ['NaN', 'NaN'],
      ['07', '07'],
    ] as const) {
      expect(read('scalar', text, 'm')).toEqual([{ ts: null, values: { m: value } }])
    }
    expect(reason('scalar', '', 'm')).toMatch(/empty/)
    expect(reason('scalar', ' null', 'm')).toMatch(/no value/)
    expect(reason('scalar', '{"a":1}', 'm')).toMatch(/devices\/\{device\}\/telemetry/)
    expect(read('scalar', '{open}', 'm')).toEqual([{ ts: null, values: { m: '{open}' } }])
    expect(reason('scalar', '1')).toMatch(/metric/)
  })
})

describe('times', () => {
  test('RFC 3339 is read to the millisecond, and nothing else is', () => {
    expect(parseRfc3339('2024-11-23T16:00:00Z')).toBe(ts)
    expect(parseRfc3339('2024-11-23t16:00:00.1239999z')).toBe(ts + 123)
    expect(parseRfc3339('2024-11-23 11:30:00.5-04:30')).toBe(ts + 500)
    expect(parseRfc3339('2016-12-31T23:59:60Z')).toBe(Date.UTC(2017, 0, 1))
    expect(parseRfc3339('2017-01-01T05:29:60.5+05:30')).toBe(Date.UTC(2017, 0, 1) + 500)
    for (const text of [
      '2024-11-23',
      '2024-02-30T00:00:00Z',
      '2024-11-23T24:00:00Z',
      '2024-11-23T16:00Z',
      '2024-11-23T16:00:00+25:00',
      '2024-11-23T16:00:00+01:99',
      '2024-11-23T15:06:60Z',
      '2024-11-23T23:59:60+01:00',
      '1732377600000',
    ]) {
      expect(parseRfc3339(text), text).toBeNull()
    }
  })

  test('how far is too far ahead is told in a unit for people', () => {
    for (const [maxAhead, words] of [
      [1000, '1 s'],
      [90_000, '90 s'],
      [1_800_000, '30 min'],
      [86_400_000, '24 h'],
      [1, '1 ms'],
    ] as const) {
      expect(readTime(now + 1e9, now, { ...defaultWindow, maxAhead })).toContain(`more than ${words} in the future`)
    }
  })
})

describe('ThingsBoard', () => {
  test('a gateway speaks for many devices, and a bad one does not harm the others', () => {
    const { readings, rejected } = decode(
      'thingsboard-gateway',
      `{"device A":[{"ts":${ts},"values":{"t":1}},{"ts":${ts + 1},"values":{"t":2}}],"bad/name":[{"t":1}],"B":[{"t":3}]}`,
    )
    expect(readings.map(({ device, ts, values }) => [device, ts, values])).toEqual([
      ['device A', ts, [1]],
      ['device A', ts + 1, [2]],
      ['B', null, [3]],
    ])
    expect(rejected).toMatchObject([{ item: 3, payload: '{"bad/name":[{"t":1}]}' }])
  })

  test('its device API sends shapes that are native here', () => {
    expect(read('json', `{"ts":${ts},"values":{"key1":"value1","key2":true,"key3":42}}`)).toEqual([
      { ts, values: { key1: 'value1', key2: true, key3: 42 } },
    ])
  })
})

describe('mapped topics', () => {
  const route = createRouter([
    { topic: 'zigbee2mqtt/{device}', codec: 'json' },
    { topic: 'tele/{device}/SENSOR', codec: 'tasmota' },
    { topic: 'shellies/{device}/{metric}', codec: 'scalar' },
    { topic: '{device}/events/rpc', codec: 'shelly' },
  ])
  const telemetry = (device: string, metric: string | null, codec: CodecName) => ({
    kind: 'telemetry',
    device,
    metric,
    codec,
  })

  test('lead to their device, metric and codec', () => {
    expect(route('zigbee2mqtt/0x00158d0001')).toEqual(telemetry('0x00158d0001', null, 'json'))
    expect(route('zigbee2mqtt/bridge/state')).toBeNull()
    expect(route('tele/plug-7/SENSOR')).toEqual(telemetry('plug-7', null, 'tasmota'))
    expect(route('shellies/shelly1pm-1/relay/0/power')).toEqual(telemetry('shelly1pm-1', 'relay.0.power', 'scalar'))
    expect(route('shellies/shelly1pm-1')).toBeNull()
    expect(route('shellyplus1pm-2/events/rpc')).toEqual(telemetry('shellyplus1pm-2', null, 'shelly'))
    expect(route('some/other/topic')).toBeNull()
  })

  test('native topics come first, and what only looks like one is told', () => {
    expect(route('devices/d/telemetry')).toEqual(telemetry('d', null, 'json'))
    expect(route('devices/d/telemetry/m')).toEqual(telemetry('d', 'm', 'scalar'))
    expect(route('v1/devices/me/telemetry')).toEqual({ kind: 'own', codec: 'json' })
    expect(route('devices/d/telemtry')).toMatchObject({ kind: 'unknown' })
    expect(route('devices//telemetry')).toMatchObject({ kind: 'unknown' })
    expect(route('devices/d/telemetry/')).toMatchObject({ kind: 'unknown' })
  })

  test('a sensor behind zigbee2mqtt', () => {
    const payload =
      '{"battery":97,"humidity":48.32,"last_seen":"2024-11-23T16:00:00+00:00","linkquality":120,"temperature":22.08,"update":{"installed_version":-1,"state":null}}'
    expect(read('json', payload)[0]?.values).toEqual({
      battery: 97,
      humidity: 48.32,
      last_seen: '2024-11-23T16:00:00+00:00',
      linkquality: 120,
      temperature: 22.08,
      'update.installed_version': -1,
    })
  })

  test('a plug with Tasmota: its clock counts only when it says its zone', () => {
    const energy = '"ENERGY":{"TotalStartTime":"2023-01-01T00:00:00","Total":12.345,"Power":42,"Voltage":231}'
    expect(read('tasmota', `{"Time":"2024-11-23T17:00:00",${energy}}`)).toEqual([
      {
        ts: null,
        values: {
          'ENERGY.TotalStartTime': '2023-01-01T00:00:00',
          'ENERGY.Total': 12.345,
          'ENERGY.Power': 42,
          'ENERGY.Voltage': 231,
        },
      },
    ])
    expect(
      read('tasmota', '{"Time":"2024-11-23T17:00:00+01:00","DS18B20":{"Temperature":20.6},"TempUnit":"C"}'),
    ).toEqual([{ ts, values: { 'DS18B20.Temperature': 20.6, TempUnit: 'C' } }])
    expect(reason('tasmota', 'Online')).toMatch(/not valid JSON/)
  })

  test('a Shelly: scalars of the first generation, RPC and status of the second', () => {
    expect(read('scalar', '48.12', 'relay.0.power')).toEqual([{ ts: null, values: { 'relay.0.power': 48.12 } }])
    const rpc = `{"src":"shellyplus1pm-2","dst":"x","method":"NotifyStatus","params":{"ts":${ts / 1000}.25,"switch:0":{"id":0,"apower":8.9,"output":true}}}`
    expect(read('shelly', rpc)).toEqual([
      { ts: ts + 250, values: { 'switch:0.id': 0, 'switch:0.apower': 8.9, 'switch:0.output': true } },
    ])
    expect(
      read('shelly', '{"id":0,"source":"init","output":false,"temperature":{"tC":40.1,"tF":104.2}}', 'switch:0'),
    ).toEqual([
      {
        ts: null,
        values: { 'switch:0.output': false, 'switch:0.temperature.tC': 40.1, 'switch:0.temperature.tF': 104.2 },
      },
    ])
  })

  test('a wrong mapping is told when the hub starts', () => {
    expect(mappingProblem({ topic: 'a/{device}', codec: 'json' })).toBeNull()
    expect(mappingProblem({ topic: 'a/{device}', codec: 'yaml' })).toMatch(/unknown codec "yaml"/)
    expect(mappingProblem({ topic: 'a/b', codec: 'json' })).toMatch(/\{device\} exactly once/)
    expect(mappingProblem({ topic: '{metric}/{device}', codec: 'json' })).toMatch(/last level/)
    expect(mappingProblem({ topic: 'a/+/{device}', codec: 'json' })).toMatch(/plain levels/)
    expect(mappingProblem({ topic: 'devices/{device}', codec: 'json' })).toMatch(/hub itself/)
  })
})
