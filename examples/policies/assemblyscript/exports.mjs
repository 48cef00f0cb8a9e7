// AssemblyScript has no way to write names such as `portcullis:policy/dynamic@0.1.0#decide`: gives the functions
// that the policy exports the names that the contract has for them.

import { Transform } from 'assemblyscript/transform';

export default class extends Transform {
  afterCompile(module) {
    for (const name of ['describe', 'configure', 'decide']) {
      module.removeExport(name);
      module.addFunctionExport(`policy/${name}`, `portcullis:policy/dynamic@0.1.0#${name}`);
    }
  }
}
