import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const open = new Set<string>()
// Also when a benchmark fails or is interrupted; a process that was ended a moment ago may still have had a file open.
process.on('exit', () => {
  for (const folder of open) rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
})

/** A new folder that is gone when the benchmark ends, if not before. */
export function createFolder(purpose: string): string {
  const folder = mkdtempSync(join(tmpdir(), `bench-${purpose}-`))
  open.add(folder)
  return folder
}

export function removeFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true })
  open.delete(folder)
}
