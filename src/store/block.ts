import { constants, deflateRawSync, inflateRawSync } from 'node:zlib'
import type { Value } from '../../devices/reading.ts'
import type { Column, Rows, Values } from './columns.ts'
import { isDistinct, valueAt } from './columns.ts'
import { checkSum, Damaged, withSum } from './damage.ts'

/*
 * Sealed history: one device's rows as compressed columns.
 *
 * A block is two byte strings. The directory is small and read alone: per column the figures that answer an
 * aggregate without opening it, and where its section lies. The sections are deflated one by one, so that a query
 * opens only the metrics that it asks for.
 */

/** What the directory tells of one column. `min` to `last` are NaN in a column that is not numeric. */
export interface ColumnSummary {
  metric: number
  kind: Kind
  count: number
  min: number
  max: number
  sum: number
  first: number
  last: number
  /** Where the section lies in the data. */
  offset: number
  length: number
}

export interface Directory {
  rows: number
  /** No two rows have the same time, so that no row corrects another one. */
  distinct: boolean
  timesLength: number
  columns: ColumnSummary[]
}

type Kind = 'number' | 'boolean' | 'mixed'
const kinds: Kind[] = ['number', 'boolean', 'mixed']

/** With checksums; blocks of version 1 have none. */
const version = 2
const summaryBytes = 4 + 1 + 4 + 5 * 8 + 4
const directoryHeader = 1 + 4 + 1 + 4 + 4

/** Rows, ascending by time, as a block. */
export function encodeBlock(rows: Rows): { directory: Uint8Array; data: Uint8Array } {
  const times = deflate(encodeIntegers(rows.times))
  const sections = [times]
  const directory = Buffer.alloc(directoryHeader + rows.columns.length * summaryBytes)
  directory[0] = version
  directory.writeUInt32LE(rows.times.length, 1)
  directory[5] = isDistinct(rows.times) ? 1 : 0
  directory.writeUInt32LE(times.length, 6)
  directory.writeUInt32LE(rows.columns.length, 10)
  let at = directoryHeader
  for (const column of rows.columns) {
    const kind = kindOf(column.values)
    const section = deflate(encodeColumn(column.values, kind))
    sections.push(section)
    directory.writeUInt32LE(column.metric, at)
    directory[at + 4] = kinds.indexOf(kind)
    const figures = summarize(column.values, kind)
    directory.writeUInt32LE(figures.count, at + 5)
    let place = at + 9
    for (const figure of [figures.min, figures.max, figures.sum, figures.first, figures.last]) {
      place = directory.writeDoubleLE(figure, place)
    }
    directory.writeUInt32LE(section.length, place)
    at += summaryBytes
  }
  return { directory: withSum(directory), data: Buffer.concat(sections) }
}

export function readDirectory(bytes: Uint8Array): Directory {
  const sound = bytes[0] === 1 ? bytes : checkSum(bytes, 'the directory of a block')
  const view = Buffer.from(sound.buffer, sound.byteOffset, sound.byteLength)
  if (view[0] !== version && view[0] !== 1) throw new Error(`a block has the unknown version ${view[0]}`)
  const timesLength = view.readUInt32LE(6)
  const columns: ColumnSummary[] = []
  let offset = timesLength
  for (let i = 0, at = directoryHeader; i < view.readUInt32LE(10); i++, at += summaryBytes) {
    const length = view.readUInt32LE(at + 49)
    columns.push({
      metric: view.readUInt32LE(at),
      kind: kinds[view[at + 4] as number] as Kind,
      count: view.readUInt32LE(at + 5),
      min: view.readDoubleLE(at + 9),
      max: view.readDoubleLE(at + 17),
      sum: view.readDoubleLE(at + 25),
      first: view.readDoubleLE(at + 33),
      last: view.readDoubleLE(at + 41),
      offset,
      length,
    })
    offset += length
  }
  return { rows: view.readUInt32LE(1), distinct: view[5] === 1, timesLength, columns }
}

/** Only the times of a block. */
export function decodeTimes(directory: Directory, data: Uint8Array): Float64Array {
  return decodeIntegers(inflate(data.subarray(0, directory.timesLength)), directory.rows)
}

/** The rows of a block, with the columns that `wanted` lets through (all without it). */
export function decodeBlock(directory: Directory, data: Uint8Array, wanted?: (metric: number) => boolean): Rows {
  const times = decodeTimes(directory, data)
  const columns: Column[] = []
  for (const { metric, kind, offset, length } of directory.columns) {
    if (wanted && !wanted(metric)) continue
    const section = inflate(data.subarray(offset, offset + length))
    columns.push({ metric, values: decodeColumn(section, kind, directory.rows) })
  }
  return { times, columns }
}

function kindOf(values: Values): Kind {
  if (values instanceof Float64Array) return 'number'
  return values.every((value) => typeof value === 'boolean' || value === undefined) ? 'boolean' : 'mixed'
}

function summarize(values: Values, kind: Kind) {
  const figures = { count: 0, min: Number.NaN, max: Number.NaN, sum: 0, first: Number.NaN, last: Number.NaN }
  for (let i = 0; i < values.length; i++) {
    const value = valueAt(values, i)
    if (value === undefined) continue
    figures.count++
    if (kind === 'mixed') continue
    const number = Number(value)
    if (figures.count === 1) figures.first = figures.min = figures.max = number
    if (number < figures.min) figures.min = number
    if (number > figures.max) figures.max = number
    figures.sum += number
    figures.last = number
  }
  return figures
}

// A column: a byte that says whether all rows have a value, if not a bitmap of those that have, then the values.
function encodeColumn(values: Values, kind: Kind): Uint8Array {
  const present: number[] = []
  for (let i = 0; i < values.length; i++) if (valueAt(values, i) !== undefined) present.push(i)
  const full = present.length === values.length
  const bitmap = full ? Buffer.of(1) : Buffer.alloc(1 + Math.ceil(values.length / 8))
  if (!full) for (const row of present) bitmap[1 + (row >> 3)] = (bitmap[1 + (row >> 3)] as number) | (1 << (row & 7))
  return Buffer.concat([bitmap, encodeValues(values, present, kind)])
}

function encodeValues(values: Values, present: number[], kind: Kind): Uint8Array {
  if (kind === 'mixed') return encodeMixed(present.map((row) => values[row] as Value))
  const numbers = Float64Array.from(present, (row) => Number(values[row]))
  return kind === 'boolean' ? Uint8Array.from(numbers) : encodeNumbers(numbers)
}

function decodeColumn(section: Uint8Array, kind: Kind, rows: number): Values {
  if (section[0] === 1) return decodeValues(section.subarray(1), kind, rows)
  const bitmap = section.subarray(1, 1 + Math.ceil(rows / 8))
  const present: number[] = []
  for (let row = 0; row < rows; row++) if ((bitmap[row >> 3] as number) & (1 << (row & 7))) present.push(row)
  const dense = decodeValues(section.subarray(1 + bitmap.length), kind, present.length)
  if (dense instanceof Float64Array) {
    const sparse = new Float64Array(rows).fill(Number.NaN)
    for (let i = 0; i < present.length; i++) sparse[present[i] as number] = dense[i] as number
    return sparse
  }
  const sparse = new Array<Value | undefined>(rows).fill(undefined)
  for (let i = 0; i < present.length; i++) sparse[present[i] as number] = dense[i]
  return sparse
}

function decodeValues(bytes: Uint8Array, kind: Kind, count: number): Values {
  if (kind === 'mixed') return decodeMixed(bytes, count)
  return kind === 'boolean' ? Array.from(bytes, (bit) => bit === 1) : decodeNumbers(bytes, count)
}

// Texts repeat: each distinct value once as JSON, then its number for each row.
function encodeMixed(values: Value[]): Uint8Array {
  const distinct = new Map<Value, number>()
  const indexes = Float64Array.from(values, (value) => {
    const known = distinct.get(value)
    if (known !== undefined) return known
    distinct.set(value, distinct.size)
    return distinct.size - 1
  })
  const dictionary = Buffer.from(JSON.stringify([...distinct.keys()]))
  const head = Buffer.alloc(4)
  head.writeUInt32LE(dictionary.length)
  return Buffer.concat([head, dictionary, encodeIntegers(indexes)])
}

function decodeMixed(bytes: Uint8Array, count: number): Value[] {
  const length = Buffer.from(bytes.buffer, bytes.byteOffset, 4).readUInt32LE()
  const dictionary: Value[] = JSON.parse(Buffer.from(bytes.subarray(4, 4 + length)).toString())
  const indexes = decodeIntegers(bytes.subarray(4 + length), count)
  return Array.from(indexes, (index) => dictionary[index] as Value)
}

const maxDecimals = 9
// Differences of differences, lowered by their minimum, must stay exact in a double.
const maxExact = 2 ** 49
// What is not exact in decimals is kept as the 64 bits themselves.
const asBits = 255

/** Numbers: as integers where all of them have a few decimals, else as the difference of their bits. */
export function encodeNumbers(numbers: Float64Array): Uint8Array {
  const decimals = commonDecimals(numbers)
  if (decimals === null) return Buffer.concat([Buffer.of(asBits), encodeBits(numbers)])
  const scale = 10 ** decimals
  return Buffer.concat([Buffer.of(decimals), encodeIntegers(numbers.map((number) => Math.round(number * scale)))])
}

export function decodeNumbers(bytes: Uint8Array, count: number): Float64Array {
  const decimals = bytes[0] as number
  if (decimals === asBits) return decodeBits(bytes.subarray(1), count)
  const numbers = decodeIntegers(bytes.subarray(1), count)
  if (decimals === 0) return numbers
  const scale = 10 ** decimals
  for (let i = 0; i < count; i++) numbers[i] = (numbers[i] as number) / scale
  return numbers
}

/** The fewest decimals that hold every number exactly, or `null`. */
function commonDecimals(numbers: Float64Array): number | null {
  let decimals = 0
  let scale = 1
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i] as number
    while (Math.round(number * scale) / scale !== number || Math.abs(number * scale) > maxExact) {
      if (decimals === maxDecimals || Math.abs(number * scale) > maxExact) return null
      decimals++
      scale = 10 ** decimals
    }
  }
  // The scale may have grown after a large number was passed.
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i] as number
    if (Math.abs(number * scale) > maxExact || Math.round(number * scale) / scale !== number) return null
  }
  return decimals
}

const integerHeader = 1 + 1 + 3 * 8

/**
 * Integers below 2^49 as bytes that deflate well: the values themselves, their differences, or the differences of
 * those, whichever has the least entropy; then lowered by their minimum and split into planes of one byte each.
 */
export function encodeIntegers(integers: Float64Array): Uint8Array {
  const first = integers[0] ?? 0
  const slope = integers.length > 1 ? (integers[1] as number) - first : 0
  let best: { order: number; lowest: number; planes: Uint8Array; cost: number } | null = null
  let residuals = integers
  for (let order = 0; order <= 2; order++) {
    if (order > 0) residuals = differences(residuals, order)
    const { lowest, planes } = toPlanes(residuals)
    const cost = entropyBytes(planes, integers.length)
    if (best === null || cost < best.cost * 0.98) best = { order, lowest, planes, cost }
  }
  const { order, lowest, planes } = best as NonNullable<typeof best>
  const bytes = Buffer.alloc(integerHeader + planes.length)
  bytes[0] = order
  bytes[1] = integers.length === 0 ? 0 : planes.length / integers.length
  bytes.writeDoubleLE(lowest, 2)
  bytes.writeDoubleLE(first, 10)
  bytes.writeDoubleLE(slope, 18)
  bytes.set(planes, integerHeader)
  return bytes
}

export function decodeIntegers(source: Uint8Array, count: number): Float64Array {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength)
  const order = bytes[0] as number
  const width = bytes[1] as number
  const lowest = bytes.readDoubleLE(2)
  const values = new Float64Array(count)
  let scale = 1
  for (let plane = 0; plane < width; plane++, scale *= 256) {
    const from = integerHeader + plane * count
    for (let i = 0; i < count; i++) values[i] = (values[i] as number) + (bytes[from + i] as number) * scale
  }
  if (order === 0) {
    if (lowest !== 0) for (let i = 0; i < count; i++) values[i] = (values[i] as number) + lowest
    return values
  }
  const first = bytes.readDoubleLE(10)
  let value = first
  let step = order === 2 ? bytes.readDoubleLE(18) : 0
  if (count > 0) values[0] = value
  for (let i = 1; i < count; i++) {
    const residual = (values[i] as number) + lowest
    // The first difference of second order is the slope itself, kept in the header.
    if (order === 1) step = residual
    else if (i > 1) step += residual
    value += step
    values[i] = value
  }
  return values
}

/** Differences from place `from` on; the places before it, which the header stands for, must not widen the planes. */
function differences(values: Float64Array, from: number): Float64Array {
  const result = new Float64Array(values.length)
  for (let i = from; i < values.length; i++) result[i] = (values[i] as number) - (values[i - 1] as number)
  return result.fill(result[from] ?? 0, 0, from)
}

function toPlanes(values: Float64Array): { lowest: number; planes: Uint8Array } {
  let lowest = Number.POSITIVE_INFINITY
  let highest = Number.NEGATIVE_INFINITY
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number
    if (value < lowest) lowest = value
    if (value > highest) highest = value
  }
  if (values.length === 0) return { lowest: 0, planes: new Uint8Array(0) }
  let width = 0
  for (let span = highest - lowest; span >= 1; span /= 256) width++
  const count = values.length
  const planes = new Uint8Array(width * count)
  for (let i = 0; i < count; i++) {
    let rest = (values[i] as number) - lowest
    for (let plane = 0; plane < width; plane++) {
      const next = Math.floor(rest / 256)
      planes[plane * count + i] = rest - next * 256
      rest = next
    }
  }
  return { lowest, planes }
}

/** Shannon's bound on the size of the planes: a close guess at what deflate makes of them, at a tenth of its time. */
function entropyBytes(planes: Uint8Array, count: number): number {
  let bits = 0
  const histogram = new Uint32Array(256)
  for (let from = 0; from < planes.length; from += count) {
    histogram.fill(0)
    for (let i = from; i < from + count; i++) {
      const byte = planes[i] as number
      histogram[byte] = (histogram[byte] as number) + 1
    }
    for (const seen of histogram) if (seen > 0) bits -= seen * Math.log2(seen / count)
  }
  return bits / 8 + planes.length / 512
}

// XOR with the one before leaves zeros where exponent and leading digits agree; planes put them side by side.
function encodeBits(numbers: Float64Array): Uint8Array {
  const words = new Uint32Array(numbers.slice().buffer)
  const planes = new Uint8Array(numbers.length * 8)
  for (let i = 0; i < numbers.length; i++) {
    for (let half = 0; half < 2; half++) {
      const previous = i === 0 ? 0 : (words[(i - 1) * 2 + half] as number)
      const word = (words[i * 2 + half] as number) ^ previous
      for (let byte = 0; byte < 4; byte++) planes[(half * 4 + byte) * numbers.length + i] = (word >>> (byte * 8)) & 0xff
    }
  }
  return planes
}

function decodeBits(planes: Uint8Array, count: number): Float64Array {
  const words = new Uint32Array(count * 2)
  for (let i = 0; i < count; i++) {
    for (let half = 0; half < 2; half++) {
      let word = i === 0 ? 0 : (words[(i - 1) * 2 + half] as number)
      for (let byte = 0; byte < 4; byte++) word ^= (planes[(half * 4 + byte) * count + i] as number) << (byte * 8)
      words[i * 2 + half] = word
    }
  }
  return new Float64Array(words.buffer)
}

// A section begins with a byte: bit 0 when it is deflated, which may not have made it smaller, bit 1 when a checksum ends it.
function deflate(bytes: Uint8Array): Uint8Array {
  const deflated = deflateRawSync(bytes, { level: constants.Z_DEFAULT_COMPRESSION, memLevel: 9 })
  const smaller = deflated.length < bytes.length
  return withSum(Buffer.concat([Buffer.of(smaller ? 3 : 2), smaller ? deflated : bytes]))
}

function inflate(section: Uint8Array): Uint8Array {
  const [form = 0] = section
  const sound = form & 2 ? checkSum(section, 'a section of a block') : section
  if (form > 3) throw new Damaged('a section of a block has no known form')
  return form & 1 ? inflateRawSync(sound.subarray(1)) : sound.subarray(1)
}
