// Checkpoints: what an Optimizer's state is called in a safetensors file.
#pragma once
