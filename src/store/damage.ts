import { crc32 } from 'node:zlib'

/*
 * SQLite does not notice when the disk changes the content of a page. What is kept in blobs carries a checksum, so that
 * damage is an error and never a wrong row.
 */

const prefix = 'the database is damaged: '

/** A part of the file is not what was written. */
export class Damaged extends Error {
  constructor(what: string) {
    super(prefix + what)
  }
}

/** Whether an error tells of damage: ours, also when it came from another thread and lost its class, or SQLite's own. */
export function isDamage(error: unknown): boolean {
  const { message = '', code = '' } = error as { message?: string; code?: string }
  return message.startsWith(prefix) || code.startsWith('SQLITE_CORRUPT') || message.includes('disk image is malformed')
}

/** The checksum of a row: of its fields, and of the blob among them. */
export function sumOfRow(fields: readonly (number | string | null)[], blob?: Uint8Array): number {
  const sum = crc32(JSON.stringify(fields))
  return blob ? crc32(blob, sum) : sum
}

const sumBytes = 4

/** The bytes with their checksum behind them. */
export function withSum(bytes: Uint8Array): Uint8Array {
  const summed = Buffer.allocUnsafeSlow(bytes.length + sumBytes)
  summed.set(bytes)
  summed.writeUInt32LE(crc32(bytes), bytes.length)
  return summed
}

/** The twin of `withSum`. Throws `Damaged`, in which `what` is named. */
export function checkSum(summed: Uint8Array, what: string): Uint8Array {
  const end = summed.length - sumBytes
  if (end < 0) throw new Damaged(`${what} is too short`)
  const bytes = summed.subarray(0, end)
  const view = Buffer.from(summed.buffer, summed.byteOffset, summed.byteLength)
  if (crc32(bytes) !== view.readUInt32LE(end)) throw new Damaged(`the checksum of ${what} is wrong`)
  return bytes
}
