import { readFileSync } from 'node:fs'

const description = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** Of this program, as in package.json. */
export const version = description.version
