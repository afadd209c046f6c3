import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream'
import { type CsvError, type InfoRecord, parse } from 'csv-parse'
import type { Sample } from '../devices/profiles.ts'
import { deviceProblem, metricProblem, textProblem, type Value } from '../devices/reading.ts'
import { Failure } from './failure.ts'
import type { TimeReader } from './local-time.ts'

/** A CSV file of readings, read as a stream: the header is known at once, the rows come as fast as they are asked for. */
export interface CsvRows {
  metrics: string[]
  rows(): AsyncGenerator<Row>
  /** What could not be read so far: all are counted, the first ones kept. */
  readonly skipped: { count: number; first: SkippedRow[] }
  close(): void
}

export interface Row {
  device: string
  ts: number
  values: Sample
}

export interface SkippedRow {
  line: number
  reason: string
}

export interface CsvOptions {
  file: string
  timeColumn: string
  /** The column with the names of the devices; without it all rows are of `device`. */
  deviceColumn: string | undefined
  device: string
  times: TimeReader
}

const keptRows = 100
/** One quote that is never closed must not make a record of the rest of the file. */
const maxRecordCharacters = 1_000_000

export async function openCsv(options: CsvOptions): Promise<CsvRows> {
  const { file, timeColumn, deviceColumn, times } = options
  const skipped: CsvRows['skipped'] = { count: 0, first: [] }
  function skip(line: number, reason: string): void {
    skipped.count++
    if (skipped.first.length < keptRows) skipped.first.push({ line, reason })
  }

  const parser = parse({
    bom: true,
    info: true,
    trim: true,
    skip_empty_lines: true,
    relax_column_count: true,
    max_record_size: maxRecordCharacters,
    skip_records_with_error: true,
    on_skip: (error) => {
      if (error) skip((error as CsvError & { lines: number }).lines, error.message)
      return undefined
    },
  })
  // The error of either side comes out of the iterator.
  pipeline(createReadStream(file), parser, () => {})
  const records: AsyncIterator<{ record: string[]; info: InfoRecord }> = parser[Symbol.asyncIterator]()
  const next = () =>
    records.next().catch((error: Error) => {
      throw new Failure(2, `--replay cannot read ${file}: ${error.message}`, error)
    })

  const header = (await next()).value?.record as string[] | undefined
  if (!header) throw new Failure(2, `--replay: ${file} is empty; its first line has to name the columns`)
  const timeAt = columnAt(header, timeColumn, '--time-column', file)
  const deviceAt = deviceColumn === undefined ? -1 : columnAt(header, deviceColumn, '--device-column', file)
  const metricsAt = [...header.keys()].filter((at) => at !== timeAt && at !== deviceAt)
  for (const at of metricsAt) {
    const name = header[at]!
    const problem = header.indexOf(name) === at ? metricProblem(name) : 'two columns have this name'
    if (problem) throw new Failure(2, `--replay: column ${at + 1} (${name}) of ${file} cannot be a metric: ${problem}`)
  }
  /** For each device its latest time, by which the two passes of a repeated hour are told apart. */
  const latest = new Map<string, number>()

  function read(record: string[]): Row | string {
    if (record.length !== header!.length) return `${record.length} cells under ${header!.length} columns`
    const device = deviceAt < 0 ? options.device : record[deviceAt]!
    const ts = times.read(record[timeAt]!, latest.get(device))
    if (typeof ts === 'string') return ts
    const values: Sample = {}
    let problem = deviceProblem(device)
    let cells = 0
    for (const at of metricsAt) {
      const value = readCell(record[at]!)
      if (value === undefined) continue
      cells++
      values[header![at]!] = value
      if (typeof value === 'string') problem ??= textProblem(header![at]!, value)
    }
    if (cells === 0) problem ??= 'all cells are empty'
    if (problem) return problem
    latest.set(device, ts)
    return { device, ts, values }
  }

  return {
    metrics: metricsAt.map((at) => header[at]!),
    skipped,
    close: () => parser.destroy(),
    async *rows() {
      for (let item = await next(); !item.done; item = await next()) {
        const row = read(item.value.record)
        if (typeof row === 'string') skip(item.value.info.lines, row)
        else yield row
      }
    },
  }
}

function columnAt(header: string[], name: string, option: string, file: string): number {
  const at = header.indexOf(name)
  if (at < 0) throw new Failure(2, `${option}: ${file} has no column "${name}"; it has ${header.join(', ')}`)
  return at
}

// 007 is a name and not the number 7.
const number = /^[+-]?(?:0|[1-9]\d*|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d+)?$/

/** A number only where it stays the same number: longer integers than a double holds are kept as text. */
function readCell(cell: string): Value | undefined {
  if (cell === '') return undefined
  if (cell === 'true' || cell === 'false') return cell === 'true'
  if (!number.test(cell)) return cell
  const value = Number(cell)
  return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value)) ? value : cell
}
