import { Failure } from './failure.ts'
import { parsePayload } from './fingerprint.ts'
import type { Values } from './scenarios.ts'

/** Writes one reading the way a device would. */
export type Render = (device: string, ts: number, seq: number, values: Values) => string

export const renderPlain: Render = (_device, ts, _seq, values) => JSON.stringify({ ts, values })

const placeholder = /\{\{\s*([^{}]+?)\s*\}\}/g

/**
 * `{{device}}`, `{{ts}}`, `{{seq}}` and the metrics become their values. Text is escaped as in JSON and wants its quotes
 * in the template; a metric that this reading lacks becomes `null`.
 */
export function compileTemplate(template: string, metrics: string[]): Render {
  const known = ['device', 'ts', 'seq', ...metrics]
  const texts: string[] = []
  const names: string[] = []
  let end = 0
  for (const match of template.matchAll(placeholder)) {
    const name = match[1]!
    if (!known.includes(name)) {
      throw new Failure(2, `--payload-template: there is no {{${name}}}; there are ${known.join(', ')}`)
    }
    texts.push(template.slice(end, match.index))
    names.push(name)
    end = match.index + match[0].length
  }
  const tail = template.slice(end)
  return (device, ts, seq, values) => {
    let text = ''
    for (let at = 0; at < names.length; at++) {
      const name = names[at]!
      const value = name === 'device' ? device : name === 'ts' ? ts : name === 'seq' ? seq : values[name]
      text += texts[at]! + write(value)
    }
    return text + tail
  }
}

function write(value: Values[string] | undefined): string {
  const json = JSON.stringify(value ?? null)
  return typeof value === 'string' ? json.slice(1, -1) : json
}

/** Only a payload that is JSON and carries its own time can be found again in a hub's history. */
export function assertVerifiable(render: Render, sample: Values): void {
  const ts = 1_700_000_000_000
  try {
    if (parsePayload(render('device', ts, 0, sample))?.ts === ts) return
  } catch (error) {
    throw new Failure(
      2,
      `--payload-template does not make JSON, which --verify needs: ${(error as Error).message}`,
      error,
    )
  }
  throw new Failure(2, '--payload-template lacks "ts":{{ts}}, which --verify needs to find a reading again')
}
