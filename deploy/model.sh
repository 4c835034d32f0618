#!/usr/bin/env bash
# One shipped model from raw data to its two bundles: runs/edgepose-NAME/edgepose-NAME.onnx and edgepose-NAME-int8.onnx.
#
#   deploy/model.sh NAME DATA        NAME: s, m, l; DATA: the folder with lspet/ and mpii_sports/
#
# One and a half to six hours on two cores with AVX-512 (several times that without). An interrupted run goes on where it stopped; a
# file that is there is not made again. movenet_lightning_fp16.tflite (s, m) or movenet_thunder_fp16.tflite (l) must lie in the current
# folder (https://www.kaggle.com/models/google/movenet: TFLite, singlepose-lightning or -thunder, float16, under that name). m goes on
# from the second run of s. s and m are taught by edgepose-l and learn from labels that it has cleaned: as it comes with the package.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=edgepose-$1 run=runs/edgepose-$1
export EDGEPOSE_DATA=$2
case $1 in
  s) movenet=lightning hourglasses="One hourglass" recipes="s-first s-second s-third s-fourth s" ;;
  m) movenet=lightning hourglasses="Two hourglasses" recipes="s-first s-second m-first m-second m-third m-fourth m" ;;
  l) movenet=thunder hourglasses="Two hourglasses" recipes="l-first l-second l-third l" ;;
  *) echo "'$1' is no shipped model that this makes; it makes s, m and l" >&2; exit 2 ;;
esac
[ -d "$2/lspet" ] && [ -f "$2/mpii_sports/people_pseudo.json" ] || {
  echo "$2 must hold lspet/ (LSPET as released) and mpii_sports/ (annotations.json, images/, people_pseudo.json)" >&2; exit 2; }
[ -f "movenet_${movenet}_fp16.tflite" ] || {
  echo "there is no movenet_${movenet}_fp16.tflite here; fetch MoveNet SinglePose ${movenet^}, TFLite float16" >&2; exit 2; }
bin=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
"$bin/python" -c 'import torch, sklearn, modelopt' 2>/dev/null || {
  echo "$bin lacks the trainer or the calibration; 'make setup-dev' installs them" >&2; exit 2; }
sports=coco:mpii_sports/annotations.json:mpii_sports/images lsp=lsp:lspet

bundle() { # the file of an earlier run, made where it is not there
  local file=runs/edgepose-$1/edgepose-$1.onnx
  [ -f "$file" ] || "$bin/edgepose-train" export "runs/edgepose-$1/last.ckpt" "$file" \
    --fit-on "$sports@dev" --fit-on "$lsp@dev" >&2 || return
  echo "$file"
}

corrections=runs/edgepose-$1-corrections.csv
for recipe in $recipes; do # each from the one before
  case $recipe in
    s-third | m-second | l-third) # these learn from labels that a large model has cleaned
      if [ ! -f $corrections ]; then
        judge=edgepose-l
        [ "$recipe" != l-third ] || judge=$(bundle l-second)
        "$bin/edgepose-train" data clean "$lsp" --model "$judge" --out $corrections
      fi ;;
    l) bundle l-third > /dev/null ;; # its teacher
  esac
  "$bin/edgepose-train" fit "$recipe" --workers 0 --resume
done
[ -f "$run/$name.onnx" ] || "$bin/edgepose-train" export "$run/last.ckpt" "$run/$name.onnx" \
  --fit-on "$sports@dev" --fit-on "$lsp@dev" --measure-on "$sports@val" --measure-on "$lsp@val" \
  --description "$hourglasses on a MobileNetV2 stem with a feature pyramid that began as MoveNet ${movenet^}'s; see the model card." \
  --terms "Trained on research data (LSPET; MPII Human Pose) from MoveNet's published weights (Apache-2.0). Read the model card before you use it in a product."
[ -f "$run/set.npz" ] || "$bin/edgepose-calibrate" select "$run/$name.onnx" "$run/set.npz" \
  --data "$sports@train" --data "$lsp@train" --count 128
[ -f "$run/$name-int8.onnx" ] || "$bin/edgepose-calibrate" quantize "$run/$name.onnx" "$run/$name-int8.onnx" \
  --set "$run/set.npz" --judge-on "$sports@dev" --judge-on "$lsp@dev" --report "$run/int8.html"
ls -l "$run/$name.onnx" "$run/$name-int8.onnx"
