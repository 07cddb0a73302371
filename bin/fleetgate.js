#!/usr/bin/env node
// The `fleetgate` command: finds a Node that can run it, in a checkout as in the published package.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { isInstalled } from './install.js'
import { become, fail, findProjectNode, isCheckout, nodeMissing, root, runningIsEnough } from './node.js'

if (isCheckout && !isInstalled({ dev: false }))
  fail(`the dependencies of this checkout are not installed; run: npm ci (in ${root})`)
if (runningIsEnough) {
  await import(pathToFileURL(join(root, isCheckout ? 'cli/main.ts' : 'dist/cli/main.js')).href)
} else {
  become(findProjectNode() ?? nodeMissing(), process.argv.slice(1))
}
