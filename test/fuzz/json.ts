import type { Random } from '../random.ts'

const t0 = 1_700_000_000_000

const makers: ((random: Random) => string)[] = [
  (random) => `${'['.repeat(random.integer(1, 50_000))}1`,
  (random) => `${'{"a":'.repeat(random.integer(1, 20_000))}1`,
  (random) => {
    const depth = random.integer(1, 3000)
    return `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`
  },
  (random) => `{"x":${random.pick(['1e400', '-1e400', '9'.repeat(400), '1e-400', '-0', 'NaN', '0x10', '1.', '.5'])}}`,
  () => '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toString":1}',
  () => '{"values":{"__proto__":1,"hasOwnProperty":2},"ts":1700000000000}',
  () => '{"a":1,"a":2,"a":{"b":3},"a.b":4}',
  () => '{"a":"\\ud800","\\udfff":1,"b\\u0000":2}',
  (random) => `[${Array.from({ length: random.integer(1, 5000) }, (_, i) => `{"ts":${t0 + i},"n":${i}}`).join(',')}]`,
  (random) => `{${Array.from({ length: random.integer(1, 3000) }, (_, i) => `"k${i}":${i}`).join(',')}}`,
  (random) => `{"${'k'.repeat(random.integer(100, 5000))}":1}`,
  (random) => `{"t":"${'x'.repeat(random.integer(4000, 20_000))}"}`,
  (random) =>
    `{"ts":${random.pick(['null', '1e30', '-1', '"2020-13-45T99:99:99Z"', '{}', '1700000000', '"now"'])},"x":1}`,
  () => '{"ts":1700000000000,"values":null}',
  () => 'null',
  () => '',
  () => '\ufeff{"x":1}',
  (random) => JSON.stringify({ ts: t0 + random.integer(0, 1e6), n: random.next() }),
]

/** Telemetry as no honest device sends it; some of it can be read all the same. */
export function hostileJson(random: Random): string {
  const text = random.pick(makers)(random)
  return random.next() < 0.2 ? text.slice(0, random.integer(0, text.length)) : text
}
