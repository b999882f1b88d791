# bench/peers.py with the installed shared library and a stand-in for PyTorch (torch/ beside this file).
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/../python/find.cmake")
if(NOT python)
  return()
endif()
set(ENV{PYTHONDONTWRITEBYTECODE} 1)
set(peers ${python} "${SOURCE}/bench/peers.py")
file(MAKE_DIRECTORY "${HERE}")

function(expect_exit code expected)  # WORD...: of bench/peers.py; a regular expression
  execute_process(COMMAND ${peers} ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  if(NOT result EQUAL code OR NOT output MATCHES "${expected}")
    message(FATAL_ERROR "bench/peers.py ${ARGN} (${result}) printed\n${output}\nand not (${code}) ${expected}")
  endif()
endfunction()

function(expect_json)  # CONDITION: in Python, of `report` and its rows `of(method, pipeline)`
  expect_output("^$" ${python} -c "
import json, sys
report = json.load(open(sys.argv[1], encoding='utf-8'))
def of(method, pipeline='update'):
    return [row for row in report['peers'] if (row['method'], row['pipeline']) == (method, pipeline)]
assert ${ARGV0}, json.dumps(report, indent=1)" "${HERE}/peers.json")
endfunction()

set(quick --quick --device cpu --library "${library}" --json-file "${HERE}/peers.json")

# Without the stand-in, and isolated from what the user has installed.
list(INSERT peers 1 -S -E)
expect_exit(77 "peers.py: no PyTorch for .*No module named 'torch'" ${quick})
list(REMOVE_ITEM peers -S -E)

# Whose results agree is timed, two shapes three times each; whose do not, and who fails, is named.
set(ENV{PYTHONPATH} "${CMAKE_CURRENT_LIST_DIR}")
expect_exit(0 "adam +update +3x64 +pytorch 0-stand-in fused .*Not measured:.*rmsprop update: RuntimeError: not in this stand-in\n.*fused, adamw update: not timed, its result differs: parameter [0-9]+ is [-0-9.e]+ after three steps, [-0-9.e]+ with the library"
  ${quick})
expect_json("report['complete'] and len(of('adam')) == len(of('momentum')) == len(of('gradient_descent')) == 6")
expect_json("not of('adamw') and not of('adamw', 'clip') and not of('rmsprop')")
expect_json("all(len(row['seconds']) == len(row['adamant_seconds']) == 3 and row['times_update'] > 0 for row in report['peers'])")
expect_json("{(row['tensors'], row['count']) for row in report['peers']} == {(1, 4096), (3, 192)}")
# The same peer with the right decay agrees, clipped too.
set(ENV{STAND_IN_DECAY} 1)
expect_exit(0 "adamw +clip +4096 +pytorch clip_grad_norm_ . fused" ${quick} --methods adamw --sizes 4096)
expect_json("len(of('adamw')) == 3 and len(of('adamw', 'clip')) == 2")

# A peer of the user's own, one that cannot be imported, and one that fails in its first step.
file(WRITE "${HERE}/more.py" "
class Raises:
    def __init__(self, parameters): pass
    def step(self): raise ValueError('out of order')
PEERS.append(('mine', 'torch', ('cpu',), lambda torch: {'adam': lambda p: torch.optim.Adam(p, lr=1e-3)}))
PEERS.append(('elsewhere', 'no_such_module', ('cpu',), lambda module: {}))
PEERS.append(('broken', 'torch', ('cpu',), lambda torch: {'adam': Raises}))
")
expect_exit(0 "broken 0-stand-in, adam update: ValueError: out of order" ${quick} --methods adam --peers "${HERE}/more.py")
expect_json("[row['peer'] for row in of('adam')].count('mine 0-stand-in') == 2")
expect_json("any(line.startswith('elsewhere: ModuleNotFoundError') for line in report['missing'])")
# Methods without a peer are named, and the others go on.
file(WRITE "${HERE}/only.py" "PEERS[:] = [('mine', 'torch', ('cpu',), lambda torch: {'adam': lambda p: torch.optim.Adam(p, lr=1e-3)})]\n")
expect_exit(0 "momentum update of 64: there is no peer for it\n" ${quick} --sizes 64 --methods momentum,adam --peers "${HERE}/only.py")
expect_json("len(report['peers']) == len(of('adam')) == 1")

# Ctrl-C: what was measured is written.
set(ENV{STAND_IN_INTERRUPTS} 1)
expect_exit(130 "Interrupted" ${quick})
expect_json("not report['complete'] and len(of('momentum')) == 3 and not of('adam')")

expect_exit(2 "\"sgd\" is not a method; allowed: gradient_descent, momentum, rmsprop, adam, adamw" ${quick} --methods sgd)
expect_exit(2 "\"0\" is not a number of parameters from 1" ${quick} --sizes 0)
expect_exit(2 "\"64\" is not TENSORSxPARAMETERS" ${quick} --shapes 64)
expect_exit(2 "peers.py: error: --threads is 0; at least 1" ${quick} --threads 0)
expect_exit(2 "peers.py: error: --threads is 4097; at least 1, at most 4096" ${quick} --threads 4097)
expect_exit(2 "peers.py: error: --seconds is nan; more than 0" ${quick} --seconds nan)
expect_exit(2 "--device cuda: this stand-in has no cuda:0" --quick --device cuda --library "${library}")
expect_exit(2 "--device cuda:1: this stand-in has no cuda:1" --quick --device cuda:1 --library "${library}")
expect_exit(2 "--device xpu: it is neither cpu nor cuda" --quick --device xpu --library "${library}")
expect_exit(2 "the library cannot be loaded" --quick --library "${HERE}/more.py")
expect_exit(2 "--json-file /no/such/place/peers.json cannot be written" --quick --json-file /no/such/place/peers.json)
expect_exit(2 "--json-file ${HERE} cannot be written" --quick --json-file "${HERE}")
expect_exit(2 "--peers .*no.py: FileNotFoundError" ${quick} --peers "${HERE}/no.py")
