#!/bin/sh
# One slice of a measuring campaign on the GPU of this machine: at least 1,000 distinct layers and 14 whole networks.
# Run the same line again until it says "(complete)": nothing is measured twice, and a slice may be killed at any moment.
#
#   sh data/campaign.sh data/h100-sxm          # slices of 8.5 minutes; a second argument sets other minutes
#
# Needs Python 3.10 or later with torch (CUDA), numpy and nvidia-ml-py; torchvision and transformers for the networks.
# No network access, no installation of wattlayer, nothing is set on the GPU. PYTHON names another interpreter.
set -eu
output=${1:?"usage: sh data/campaign.sh OUTPUT-FOLDER [MINUTES]"}
case $output in /*) ;; *) output=$(pwd)/$output ;; esac
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m wattlayer.measure --output "$output" --minutes "${2:-8.5}" --resume
