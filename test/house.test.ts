import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Which folder may import which, and which packages: the floors of the house. */
const floors: { folder: string; imports: string[]; packages: RegExp }[] = [
  { folder: 'devices', imports: ['devices'], packages: /^$/ },
  { folder: 'broker', imports: ['broker', 'devices'], packages: /^(node:(buffer|net|stream|tls|zlib)|aedes|qlobber)$/ },
  { folder: 'simulator', imports: ['simulator', 'devices'], packages: /^(node:.*|mqtt|csv-parse)$/ },
  { folder: 'src/store', imports: ['src/store', 'src/history', 'devices'], packages: /^(node:.*|better-sqlite3)$/ },
  { folder: 'src/history', imports: ['src/history', 'src/store', 'devices'], packages: /^$/ },
  { folder: 'src/dashboard', imports: ['src/dashboard'], packages: /^uplot$/ },
  { folder: 'src/client', imports: ['src/client'], packages: /^ws$/ },
  {
    folder: 'src/http',
    imports: ['src', 'devices'],
    packages: /^(node:.*|fastify|@fastify\/.*|@sinclair\/typebox|pino|ws)$/,
  },
  { folder: 'src/delivery', imports: ['src', 'devices'], packages: /^node:.*$/ },
  { folder: 'src', imports: ['src', 'devices', 'broker'], packages: /.*/ },
]

function files(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/(?:from|import)\s+'([^']+)'|import\('([^']+)'\)/g)].map(
    (match) => (match[1] ?? match[2]) as string,
  )
}

describe('the floors of the house', () => {
  for (const { folder, imports, packages } of floors) {
    test(`${folder} imports only ${imports.join(', ')}${packages.source === '.*' ? '' : ` and ${packages.source}`}`, () => {
      const list = files(folder)
      expect(list.length).toBeGreaterThan(0)
      for (const file of list) {
        for (const name of importsOf(file)) {
          if (!name.startsWith('.')) {
            expect(name, `${file} imports ${name}`).toMatch(packages)
            continue
          }
          const target = relative(root, join(root, dirname(file), name))
          expect(
            imports.some((allowed) => target.startsWith(`${allowed}/`)),
            `${file} imports ${target}`,
          ).toBe(true)
        }
      }
    })
  }

  test('only the composition root knows the broker, and nobody the simulator', () => {
    const knowing = files('src').filter((file) => importsOf(file).some((name) => /\.\.\/broker\//.test(name)))
    expect(knowing).toEqual(['src/hub.ts'])
    for (const folder of ['src', 'broker', 'devices']) {
      for (const file of files(folder))
        expect(
          importsOf(file).filter((name) => /simulator\//.test(name)),
          file,
        ).toEqual([])
    }
  })

  test('the thread that speaks MQTT and HTTP runs no SQL', () => {
    const withSql = files('src').filter((file) => importsOf(file).includes('better-sqlite3'))
    for (const file of withSql) expect(file).toMatch(/^src\/store\/sqlite\//)
  })

  // What the collector finds of better-sqlite3 ends the process on newer Nodes (database.ts).
  test('databases are opened so that nothing of them is garbage, and no statement is made on the way', () => {
    const openers = files('src').filter((file) => readFileSync(join(root, file), 'utf8').includes('new Database('))
    expect(openers).toEqual(['src/store/sqlite/database.ts'])
    for (const file of files('src/store')) {
      expect(readFileSync(join(root, file), 'utf8'), file).not.toMatch(/\.(pragma|iterate)\(/)
    }
  })
})
